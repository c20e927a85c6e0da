//! Story: one authority decides, and every other name in a request must agree with it.

use crate::harness::exeat::{Capture, allow_all};
use crate::harness::{Exeat, House, Upstream, h2, run};

struct Street {
    exeat: Exeat,
    one: Upstream,
    two: Upstream,
}

fn two() -> Street {
    let (one, two) = (Upstream::https(), Upstream::https());
    let exeat = House::new()
        .listener("egress", Capture::Forward)
        .listener("mesh", Capture::Host)
        .listener("door", Capture::Route("one"))
        .upstream("one", &one)
        .upstream("two", &two)
        .policy("base.yaml", &allow_all(&["one", "two"]))
        .start();
    Street { exeat, one, two }
}

impl Street {
    fn nothing_arrived(&self) {
        assert_eq!((self.one.count(), self.two.count()), (0, 0), "{:?} {:?}", self.one.seen(), self.two.seen());
    }
}

#[test]
fn the_host_inside_a_tunnel_is_the_tunnels() {
    let street = two();
    let ca = street.exeat.ca();
    for host in [street.two.authority(), "localhost".to_owned(), "other.test".to_owned(), format!("127.0.0.1:{}", street.one.port)] {
        let mut wire = street.exeat.wire("egress").connect(&street.one.authority()).tls("localhost", &ca, &["http/1.1"]).expect("TLS");
        wire.ask("GET", "/x", &host, &[], b"").must_refuse(421, "misdirected");
    }
    // The absolute form inside must agree too.
    let mut wire = street.exeat.wire("egress").connect(&street.one.authority()).tls("localhost", &ca, &["http/1.1"]).expect("TLS");
    wire.ask("GET", &format!("https://{}/x", street.two.authority()), &street.one.authority(), &[], b"").must_refuse(421, "misdirected");
    street.nothing_arrived();
}

#[test]
fn each_request_of_a_tunnel_is_looked_at_anew() {
    let street = two();
    let ca = street.exeat.ca();
    let mut wire = street.exeat.wire("egress").connect(&street.one.authority()).tls("localhost", &ca, &["http/1.1"]).expect("TLS");
    assert_eq!(wire.ask("GET", "/good", &street.one.authority(), &[], b"").status, 200);
    wire.ask("GET", "/bad", &street.two.authority(), &[], b"").must_refuse(421, "misdirected");
    assert_eq!(street.one.count() + street.two.count(), 1);
}

#[test]
fn the_server_name_of_tls_is_the_tunnels() {
    let street = two();
    let ca = street.exeat.ca();
    for name in ["other.test", "a.wild.test"] {
        match street.exeat.wire("egress").connect(&street.one.authority()).tls(name, &ca, &["http/1.1"]) {
            // Refused in the handshake, or in words.
            Err(_) => {}
            Ok(mut wire) => wire.ask("GET", "/x", &street.one.authority(), &[], b"").must_refuse(421, "misdirected"),
        }
    }
    street.nothing_arrived();
    let record = street.exeat.record("the wrong name", |record| record["code"] == "misdirected" || record["kind"] == "edge");
    assert!(!record.is_null());
}

#[test]
fn the_authority_of_each_stream_is_the_tunnels() {
    let street = two();
    let ca = street.exeat.ca();
    run(async {
        let io = h2::tunnelled(street.exeat.port("egress"), &street.one.authority(), "localhost", &ca).await.expect("h2");
        let mut client = h2::Client::start(io).await.expect("h2");
        let asked = h2::request("GET", "https", &street.two.authority(), "/coalesced", &[]);
        client.ask(asked, b"", None).await.expect("answered").must_refuse(421, "misdirected");
        // A Host beside the authority must say the same.
        let asked = h2::request("GET", "https", &street.one.authority(), "/two-names", &[("host", &street.two.authority())]);
        let answer = client.ask(asked, b"", None).await;
        if let Ok(answer) = answer {
            assert!(matches!(answer.refusal(), Some("misdirected" | "malformed")), "{answer:?}");
        }
        let asked = h2::request("GET", "https", &street.one.authority(), "/fine", &[]);
        assert_eq!(client.ask(asked, b"", None).await.expect("answered").status, 200);
    });
    assert_eq!((street.one.count(), street.two.count()), (1, 0));
    assert!(street.one.matching("/fine").len() == 1);
}

#[test]
fn the_absolute_form_and_host_must_agree() {
    let street = two();
    for (target, host) in [
        (format!("https://{}/x", street.one.authority()), street.two.authority()),
        (format!("https://{}/x", street.one.authority()), "localhost".to_owned()),
    ] {
        let answer = street.exeat.ask("egress", "GET", &target, &host, &[]);
        assert!(matches!(answer.refusal(), Some("misdirected")), "{answer:?}");
    }
    street.nothing_arrived();
}

#[test]
fn a_plaintext_request_does_not_reach_what_the_tunnel_meant_for_tls() {
    let street = two();
    let mut wire = street.exeat.wire("egress").connect(&street.one.authority());
    let answer = wire.ask("GET", "/plain", &street.one.authority(), &[], b"");
    assert!(matches!(answer.refusal(), Some("unlisted" | "misdirected")), "the upstream lists no plaintext origin: {answer:?}");
    street.nothing_arrived();
}

#[test]
fn equal_names_in_other_spellings_are_equal() {
    let street = two();
    for host in [format!("LOCALHOST:{}", street.one.port), format!("localhost.:{}", street.one.port)] {
        assert_eq!(street.exeat.ask("mesh", "GET", "/same", &host, &[]).status, 200, "{host}");
    }
    for seen in street.one.seen() {
        assert_eq!(seen.authority, street.one.authority(), "one spelling goes on");
    }
}

#[test]
fn a_route_is_one_upstream_whatever_the_host_says() {
    let street = two();
    for host in ["localhost", "anything.test", &street.two.authority()] {
        assert_eq!(street.exeat.ask("door", "GET", "/through-the-door", host, &[]).status, 200, "{host}");
    }
    assert_eq!((street.one.count(), street.two.count()), (3, 0));
    for seen in street.one.seen() {
        assert_eq!(seen.authority, street.one.authority(), "the catalogue's name goes on");
    }
    for (method, target) in
        [("CONNECT", street.one.authority()), ("CONNECT", street.two.authority()), ("GET", format!("https://{}/x", street.two.authority()))]
    {
        let answer = street.exeat.ask("door", method, &target, "localhost", &[]);
        assert!(answer.refusal().is_some(), "{method} {target}: {answer:?}");
    }
    assert_eq!((street.one.count(), street.two.count()), (3, 0));
}
