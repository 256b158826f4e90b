//! `partd-server status`: shows the status of a server.

use std::path::Path;
use std::process::ExitCode;

use partd_server::{Address, Client, KeyPair, PublicKey, Status};

use crate::args::StatusArgs;
use crate::{Failure, print};

pub(crate) fn run(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let status = ask(args).map_err(|error| Failure::Refused(error.to_string()))?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&status)
            .map_err(|error| Failure::Refused(error.to_string()))?,
        false => describe(&status),
    };
    print(text.as_bytes())?;
    print(b"\n")?;
    Ok(if status.health == "ok" { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn ask(args: &StatusArgs) -> partd::Result<Status> {
    let mut options = Client::options().timeout(args.timeout);
    if let (Some(pair), Some(server)) = (&args.curve_key, &args.server_key) {
        options = options.curve(KeyPair::read(pair)?, PublicKey::read(server)?);
    }
    let address = match Path::new(&args.address) {
        store if store.is_dir() => Address::for_store(store)?.to_string(),
        _ => args.address.clone(),
    };
    options.connect(address)?.status()
}

fn describe(status: &Status) -> String {
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let health = match (status.last_error.as_str(), status.last_error_seconds_ago) {
        ("", _) | (_, None) => status.health.clone(),
        (kind, Some(seconds)) => {
            format!("{}; the last error of the store ({kind}) was {seconds} s ago", status.health)
        }
    };
    let lines = [
        ("health", health),
        ("uptime", format!("{} s, version {}", status.uptime_seconds, status.version)),
        (
            "clients",
            format!(
                "{} connected, {} in all, {} refused, {} dropped",
                status.connections,
                status.connections_total,
                status.refused_total,
                status.dropped_total
            ),
        ),
        (
            "rates",
            format!(
                "{:.1} requests/s, {}/s in, {}/s out",
                status.requests_per_second,
                mib(status.received_bytes_per_second),
                mib(status.sent_bytes_per_second)
            ),
        ),
        (
            "requests",
            format!(
                "{} writes, {} reads, {} others, {} errors, {} repeated",
                status.writes_total,
                status.reads_total,
                status.others_total,
                status.errors_total,
                status.repeated_total
            ),
        ),
        (
            "memory",
            format!(
                "{} buffered, {} in flight",
                mib(status.buffer_bytes as f64),
                mib(status.in_flight_bytes as f64)
            ),
        ),
        (
            "writes",
            format!("{}, durable up to {}, run {}", status.seq, status.durable_seq, status.run),
        ),
    ];
    lines.map(|(name, text)| format!("{name:<10}{text}")).join("\n")
}
