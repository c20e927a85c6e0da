//! Story against SPIRE itself (`tests/interop/build`): its agent's Broker API says who two programs of this host are, and upstreams on
//! go-spiffe, each of which takes one of them alone, see their own certificates.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::broker_api::Workload;
use crate::harness::exeat::{Capture, policy_head};
use crate::harness::{House, Upstream, free_port, jwt, skipped};
use crate::spire::{Spire, patiently, tool};

const EXEAT: &str = "spiffe://it.test/ns/it/sa/exeat";
const LEDGER: &str = "spiffe://it.test/ns/it/sa/ledger";
const IDS: [&str; 2] = ["spiffe://it.test/ns/it/sa/one", "spiffe://it.test/ns/it/sa/two"];
const REQUESTS: usize = 4_000;

#[test]
fn two_programs_of_one_host_have_their_own_svids_by_spires_broker_api() {
    let (Some(server), Some(agent), Some(peer)) = (tool("spire-server"), tool("spire-agent"), tool("mesh-peer")) else {
        return skipped("spire not present");
    };
    let mut spire = Spire::with_broker(server, agent, Some(EXEAT));
    let exeat_entry = spire.register(EXEAT, std::path::Path::new(env!("CARGO_BIN_EXE_exeat")));
    spire.register(LEDGER, &peer);
    let programs = ["one", "two", "three"].map(|name| {
        let program = spire.dir.path().join(format!("program-{name}"));
        fs::copy(std::env::current_exe().expect("this program"), &program).expect("copied");
        program
    });
    let entries = [0, 1].map(|at| spire.register(IDS[at], &programs[at]));
    let ports = [free_port(), free_port()];
    let _peers = [0, 1].map(|at| spire.upstream(&peer, ports[at], IDS[at]));
    let plain = Upstream::http();
    let reach = "reach: { networks: [127.0.0.0/8, \"::1/128\"] }";
    let upstream = |port: u16| {
        format!(
            "{{ owner: team@example.com, origins: [\"https://localhost:{port}\"], {reach}, tls: {{ client_certificate: svid, spiffe_id: \"{LEDGER}\" }} }}"
        )
    };
    let policy = policy_head("base")
        .replace("from: [app]", "from: [one, two]")
        .replace("rules:", &format!("  one: {{ spiffe: \"{}\" }}\n  two: {{ spiffe: \"{}\" }}\nrules:", IDS[0], IDS[1]))
        + "  - { id: mesh, effect: allow, to: [up-one, up-two], methods: [GET], paths: [\"/**\"], grant: none }\n"
        + "  - { id: own, effect: allow, to: [plain], methods: [GET], paths: [\"/**\"], grant: own }\n";
    let broker = format!(
        "{{ broker_api: {{ socket: \"unix://{}\", workload_api: {{ socket: \"{}\" }} }} }}",
        spire.path("broker/api.sock"),
        spire.endpoint()
    );
    let exeat = House::new()
        .identity("host", &broker)
        .socket("sock", Capture::Host, "host")
        .raw_upstream("up-one", &upstream(ports[0]))
        .raw_upstream("up-two", &upstream(ports[1]))
        .raw_upstream("plain", &format!("{{ owner: team@example.com, origins: [\"{}\"], {reach}, credentials: [own] }}", plain.origin()))
        .credential("own", "{ jwt_svid: { audience: \"https://up.audience.test\" } }")
        .policy("base.yaml", &policy)
        .spawn();
    patiently("exeat to become ready", || exeat.try_status("/readyz").filter(|ready| ready.status == 200));
    let hosts = ports.map(|port| format!("localhost:{port}"));
    let mut workloads = [0, 1].map(|at| Workload::of(&programs[at], &exeat, "-"));
    for at in [0, 1] {
        // A registration reaches the agent when it next asks the server.
        patiently("the workload to be known", || workloads[at].ask(&format!("get {} /own 1", hosts[at])).starts_with("done").then_some(()));
        let word = workloads[at].ask(&format!("get {} /foreign 1", hosts[1 - at]));
        assert!(word.starts_with("failed 502"), "the upstream of the other takes the other alone: {word}\n{:?}", exeat.audit().pop());
    }
    let mut stranger = Workload::of(&programs[2], &exeat, "-");
    let word = stranger.ask(&format!("get {} /stranger 1", hosts[0]));
    assert!(word.starts_with("failed 403 unauthenticated"), "{word}");

    // Both ask at once, while their certificates and exeat's own rotate.
    let began = Instant::now();
    let mut serials = [HashSet::new(), HashSet::new()];
    let mut rounds = 0;
    while serials.iter().any(|seen: &HashSet<String>| seen.len() < 4) || rounds * 100 < REQUESTS {
        assert!(began.elapsed() < Duration::from_mins(3), "{serials:?} after {rounds} rounds");
        for at in [0, 1] {
            workloads[at].tell(&format!("get {} /load 100", hosts[at]));
        }
        for at in [0, 1] {
            let word = workloads[at].hear();
            assert!(
                word.starts_with("done"),
                "{word}\n{:?}",
                exeat.audit().into_iter().rev().find(|record| record["outcome"] != "allowed")
            );
            serials[at].extend(word.split(' ').nth(2).map(str::to_owned));
        }
        rounds += 1;
    }
    assert!(serials[0].is_disjoint(&serials[1]));
    let (sent, took) = (rounds * 200, began.elapsed());
    println!(
        "spire broker: {sent} requests of two programs in {took:?}, none failed; certificates seen: {} and {}",
        serials[0].len(),
        serials[1].len()
    );

    for at in [0, 1] {
        let host = plain.authority();
        patiently("a JWT-SVID", || workloads[at].ask(&format!("get {host} /jwt-{at} 1")).starts_with("done").then_some(()));
        let seen = plain.matching(&format!("/jwt-{at}/")).pop().expect("a request");
        assert_eq!(jwt::claims(seen.bearer().expect("a token"))["sub"], IDS[at]);
    }

    // The agent dies and comes back: who is known is served all the time, and given the next certificates afterwards.
    drop(spire.running.take());
    for at in [0, 1] {
        let word = workloads[at].ask(&format!("get {} /gone 20", hosts[at]));
        assert!(word.starts_with("done"), "{word}");
    }
    spire.attest(&[]);
    let before = serials[0].len();
    patiently("a rotation by the agent that came back", || {
        let word = workloads[0].ask(&format!("get {} /back 1", hosts[0]));
        serials[0].extend(word.strip_prefix("done ").and_then(|rest| rest.split(' ').nth(1)).map(str::to_owned));
        (serials[0].len() > before + 1).then_some(())
    });

    // What is deleted of one ends for that one.
    let deleted = spire.ask(&["entry", "delete", "-entryID", &entries[0]]);
    assert!(deleted.status.success());
    let began = Instant::now();
    let word = patiently("the first refusal", || {
        let word = workloads[0].ask(&format!("get {} /deleted 1", hosts[0]));
        (!word.starts_with("done") && !word.starts_with("failed cut")).then_some(word)
    });
    println!("spire broker: entry deleted, first refusal after {:?}: {word}", began.elapsed());
    assert!(word.starts_with("failed 403 unauthenticated"), "{word}");
    assert!(workloads[1].ask(&format!("get {} /other 20", hosts[1])).starts_with("done"), "the other goes on");
    // Without an entry of its own exeat is no broker, and nobody is let through.
    assert!(spire.ask(&["entry", "delete", "-entryID", &exeat_entry]).status.success());
    let word = patiently("exeat to be no broker any more", || {
        let word = workloads[1].ask(&format!("get {} /withdrawn 1", hosts[1]));
        (!word.starts_with("done") && !word.starts_with("failed cut")).then_some(word)
    });
    assert!(word.starts_with("failed 403 unauthenticated"), "{word}");
}
