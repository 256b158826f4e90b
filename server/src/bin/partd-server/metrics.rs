//! Serves Prometheus text over HTTP, at a loopback address only.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use partd_server::ServerHandle;
use tiny_http::{Header, Response, Server};

use crate::Failure;

/// Serves the metrics until the program ends. Returns the address, with the actual port.
pub(crate) fn start(address: &str, handle: ServerHandle) -> Result<SocketAddr, Failure> {
    let refused = |why: String| Failure::Refused(format!("--metrics {address}: {why}"));
    let resolved: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(|error| refused(error.to_string()))?.collect();
    if !resolved.iter().all(|address| address.ip().is_loopback()) {
        return Err(refused("metrics are for this machine alone; listen at 127.0.0.1".into()));
    }
    let server = Server::http(&resolved[..]).map_err(|error| refused(error.to_string()))?;
    let bound = server.server_addr().to_ip().ok_or_else(|| refused("no address".into()))?;
    let text = Header::from_bytes("Content-Type", "text/plain; version=0.0.4");
    let text = text.map_err(|()| refused("no header".into()))?;
    let answer = move || loop {
        match server.recv_timeout(Duration::from_secs(3600)) {
            Ok(Some(request)) if request.url() == "/metrics" => {
                let metrics = handle.status().to_prometheus();
                // The client may have disconnected.
                let _ = request.respond(Response::from_string(metrics).with_header(text.clone()));
            }
            Ok(Some(request)) => {
                // The client may have disconnected.
                let _ =
                    request.respond(Response::from_string("see /metrics\n").with_status_code(404));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = %error, "metrics are no longer served");
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("partd-metrics".into()).spawn(answer);
    thread.map_err(|error| refused(format!("cannot start a thread: {error}")))?;
    Ok(bound)
}
