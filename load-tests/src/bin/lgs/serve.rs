//! The upstream of long streams: it gives back what it gets.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;
use crate::options::Options;
use crate::ws::ACCEPT;

/// Serves until the process is stopped.
pub(crate) async fn serve(options: &Options) -> Result<(), Failure> {
    for address in &options.h2c {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(async move {
            while let Ok(stream) = accept(&listener).await {
                tokio::task::spawn_local(calls(stream));
            }
        });
    }
    let ports = |address: &SocketAddr| {
        let address = *address;
        (0..options.span).map(move |further| SocketAddr::new(address.ip(), address.port() + further))
    };
    for address in options.h1.iter().flat_map(ports) {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(async move {
            while let Ok(stream) = accept(&listener).await {
                tokio::task::spawn_local(upgrades(stream));
            }
        });
    }
    println!("serving");
    std::future::pending().await
}

async fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn calls(stream: TcpStream) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1_000).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let mut connection = builder.handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::task::spawn_local(echo(request, respond));
    }
    Ok(())
}

async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut answer = Response::new(());
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut out = respond.send_response(answer, false)?;
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if !piece.is_empty() {
            out.send_data(piece, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    out.send_trailers(trailers)
}

async fn upgrades(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..count]);
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let upgrade = head[..end].to_ascii_lowercase().windows(9).any(|nine| nine == b"websocket");
        let rest = head.split_off(end + 4);
        if !upgrade {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n{}", "x".repeat(128));
            stream.write_all(answer.as_bytes()).await?;
            head = rest;
            continue;
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(&rest).await?;
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await?;
        return Ok(());
    }
}
