//! Serves a store until a signal or a client stops the server.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use listenfd::ListenFd;
use partd::{Buffer, Dict, Partd, SegmentLog, compression};
use partd_server::{Address, AllowedKeys, KeyPair, Server, ServerHandle, ServerOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::Serve;
use crate::{Failure, logging, metrics};

pub(crate) fn run(path: &Path, args: Serve) -> Result<ExitCode, Failure> {
    logging::start(&args);
    raise_file_limit();
    let options = options(&args).map_err(|error| Failure::Refused(error.to_string()))?;
    // Handle signals before the store is opened, so that none kills the program while the store is
    // open.
    let signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::Refused(format!("cannot wait for signals: {error}")))?;
    let server = serve(path, &args, options)?;
    end_on_signal(signals, server.handle())?;
    if let Some(address) = &args.metrics {
        let bound = metrics::start(address, server.handle())?;
        tracing::info!("metrics at http://{bound}/metrics");
    }
    announce(&server)?;
    server.wait();
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping: finishing the requests that have arrived, then flushing and syncing");
    server.stop().map_err(|error| Failure::Store(format!("while stopping: {error}")))?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Raises the limit of open files to the hard limit: connections and segments need file
/// descriptors.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If this fails, fewer connections fit, and the log says so when the limit is reached.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn options(args: &Serve) -> partd::Result<ServerOptions> {
    let limits = args.limits.limits();
    let mut options = Server::options().limits(limits).role(args.role.without(args.forbid));
    if let (Some(pair), Some(clients)) = (&args.curve_key, &args.curve_clients) {
        let allowed = AllowedKeys::read(clients)?.without(args.forbid);
        options = options.curve(KeyPair::read(pair)?, allowed);
    }
    if let Some(spool) = &args.spool {
        options = options.spool(spool);
    }
    Ok(options)
}

/// Serves the store at the path, behind a `Buffer` if `--memory` is not 0.
fn serve(path: &Path, args: &Serve, options: ServerOptions) -> Result<Server, Failure> {
    let store = store(path, args).map_err(|error| Failure::Store(error.to_string()))?;
    let options = addresses(path, args, options)?;
    let server = match args.memory {
        0 => options.serve(store),
        memory => {
            let buffer = Arc::new(Buffer::new(Dict::new(), store, memory));
            let gauge = Arc::clone(&buffer);
            options.memory_bytes(move || gauge.memory_bytes()).serve(buffer)
        }
    };
    server.map_err(|error| Failure::Refused(error.to_string()))
}

fn store(path: &Path, args: &Serve) -> partd::Result<Box<dyn Partd>> {
    let log = SegmentLog::options().max_store_bytes(args.max_store).open(path)?;
    match &args.encode {
        Some(codec) => compression(codec, Box::new(log)),
        None => Ok(Box::new(log)),
    }
}

/// Adds the addresses that were given and the sockets that systemd passed in. If there are none,
/// adds the default address of the store.
fn addresses(
    path: &Path,
    args: &Serve,
    mut options: ServerOptions,
) -> Result<ServerOptions, Failure> {
    let mut passed = ListenFd::from_env();
    for i in 0..passed.len() {
        let wrong = |error: io::Error| {
            Failure::Refused(format!("socket {i} of systemd is not a listening stream: {error}"))
        };
        // The socket is either unix or TCP; an error here may only mean that it is TCP.
        options = match passed.take_unix_listener(i) {
            Ok(Some(listener)) => options.unix_listener(listener),
            _ => match passed.take_tcp_listener(i).map_err(wrong)? {
                Some(listener) => options.tcp_listener(listener),
                None => options,
            },
        };
    }
    for address in &args.bind {
        options = options.bind(address);
    }
    if passed.len() == 0 && args.bind.is_empty() {
        let own = Address::for_store(path).map_err(|error| Failure::Refused(error.to_string()))?;
        options = options.bind(own);
    }
    Ok(options)
}

/// Stops the server cleanly on the first signal, and ends the process on the second.
fn end_on_signal(mut signals: Signals, handle: ServerHandle) -> Result<(), Failure> {
    let wait = move || {
        let mut signals = signals.forever();
        if let Some(signal) = signals.next() {
            tracing::info!(signal, "asked to stop");
            handle.ask_end();
        }
        if let Some(signal) = signals.next() {
            std::process::exit(128 + signal);
        }
    };
    let thread = std::thread::Builder::new().name("partd-signals".into()).spawn(wait);
    thread.map(|_| ()).map_err(|error| Failure::Refused(format!("cannot start a thread: {error}")))
}

/// Prints the addresses, and notifies systemd that the server is ready.
fn announce(server: &Server) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for address in server.addresses() {
        tracing::info!("listening at {address}");
        match writeln!(out, "{address}").and_then(|()| out.flush()) {
            // Standard output is closed; the log has the address.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    notify(&[NotifyState::Ready]);
    Ok(())
}

/// Notifies systemd, if the program runs under it.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %error, "cannot notify systemd");
    }
}
