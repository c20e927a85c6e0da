//! Story: an address that no upstream may reach is not reached, however it is spelled or resolved.

use crate::harness::exeat::{Capture, allow_all};
use crate::harness::{House, Upstream};

#[test]
fn loopback_needs_to_be_named() {
    let (up, named) = (Upstream::http(), Upstream::http());
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("unnamed", &up, "reach: { networks: [10.0.0.0/8] }")
        .upstream("named", &named)
        .origin("literal", &[&format!("http://127.0.0.1:{}", up.port)], "reach: { networks: [10.0.0.0/8] }")
        .policy("base.yaml", &allow_all(&["unnamed", "named", "literal"]))
        .start();
    exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).must_refuse(403, "address_refused");
    exeat.ask("mesh", "GET", "/x", &format!("127.0.0.1:{}", up.port), &[]).must_refuse(403, "address_refused");
    assert_eq!(exeat.ask("mesh", "GET", "/x", &named.authority(), &[]).status, 200);
    assert_eq!((up.connections().len(), up.wire_bytes()), (0, 0));
    let record = exeat.record("the refused address", |record| record["code"] == "address_refused");
    assert!(
        record["detail"].as_str().is_some_and(|detail| detail.contains("127.0.0.1") || detail.contains("::1")),
        "the record names the address: {record}"
    );
}

#[test]
fn metadata_addresses_are_never_reached() {
    let literals = [
        "http://169.254.169.254",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://168.63.129.16",
        "http://[::ffff:169.254.169.254]",
    ];
    let mut house = House::new().listener("egress", Capture::Forward).listener("mesh", Capture::Host);
    let names: Vec<String> = (0..literals.len()).map(|at| format!("meta{at}")).collect();
    for (name, origin) in names.iter().zip(literals) {
        house = house.origin(name, &[origin], "reach: { networks: [0.0.0.0/0, \"::/0\"] }, deadlines: { connect: 2s }");
    }
    let exeat = house.policy("base.yaml", &allow_all(&names.iter().map(String::as_str).collect::<Vec<_>>())).start();
    for origin in literals {
        let host = &origin["http://".len()..];
        exeat.ask("mesh", "GET", "/latest/meta-data/", host, &[]).must_refuse(403, "address_refused");
    }
    // Other spellings of the same are no hosts at all.
    for host in ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0xa9.254.169.254"] {
        let answer = exeat.ask("mesh", "GET", "/latest/meta-data/", host, &[]);
        assert!(matches!(answer.refusal(), Some("malformed" | "unlisted")), "{host}: {answer:?}");
        let answer = exeat.ask("egress", "GET", &format!("http://{host}/latest/"), host, &[]);
        assert!(matches!(answer.refusal(), Some("malformed" | "unlisted")), "{host}: {answer:?}");
    }
}

#[test]
fn exeats_own_listeners_are_no_upstreams() {
    let up = Upstream::http();
    let house = House::new().listener("mesh", Capture::Host).listener("egress", Capture::Forward).upstream("up", &up);
    let (status, mesh) = (house.status_port(), house.listener_port("mesh"));
    let exeat = house
        .origin("own-status", &[&format!("http://localhost:{status}")], "")
        .origin("own-door", &[&format!("http://localhost:{mesh}")], "")
        .policy("base.yaml", &allow_all(&["up", "own-status", "own-door"]))
        .spawn();
    // Either the configuration is refused, or the request is.
    let port = exeat.port("mesh");
    crate::harness::until("a listener or an end", || {
        (!exeat.running() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(())
    });
    if exeat.running() {
        exeat.ready();
        for port in [status, mesh] {
            exeat.ask("mesh", "GET", "/metrics", &format!("localhost:{port}"), &[]).must_refuse(403, "address_refused");
        }
    }
}
