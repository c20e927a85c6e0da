//! Story: an operator takes access away while requests are under way, and gives it back.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::exeat::{APP, Capture, allow_all, policy_head};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, h2, run, until};

fn house(up: &Upstream) -> House {
    House::new().listener("mesh", Capture::Host).upstream("up", up).policy("base.yaml", &allow_all(&["up"])).admin()
}

fn asks(exeat: &Exeat, up: &Upstream) -> u16 {
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).status
}

/// A live stream that has given its first event.
fn stream(exeat: &Exeat, up: &Upstream) -> Wire {
    let mut wire = exeat.wire("mesh");
    wire.send(&request("GET", "/sse/1000", &up.authority(), &[], b""));
    let head = wire.open_answer().expect("a head");
    assert_eq!(wire.part(&head.fields).expect("an event"), Some(b"data: 0\n\n".to_vec()));
    wire
}

#[test]
fn every_target_is_refused_ended_and_restored() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    for target in ["everything", &format!("workload {APP}"), "upstream up", "credential up-jwt", "rule base/all-up"] {
        assert_eq!(asks(&exeat, &up), 200, "{target}");
        let mut live = stream(&exeat, &up);
        let told = exeat.revoke(target);
        assert_eq!((&told["target"], &told["passages_ended"], &told["durable"]), (&json!(target), &json!(1), &json!(true)), "{told}");
        assert!(
            told["grants"]["discarded"].as_u64() >= Some(1) && told["grants"]["issuer_cannot"] == told["grants"]["discarded"],
            "{told}"
        );
        assert!(told["grants"]["last_ends"].is_string() && told["warnings"] == json!([]), "{told}");
        live.until_end().expect("the stream was ended");
        let seen = up.count();
        exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
        assert_eq!(up.count(), seen, "nothing reached the upstream");
        let again = exeat.revoke(target);
        assert_eq!((&again["already"], &again["passages_ended"]), (&json!(true), &json!(0)), "revoking twice is revoking once: {again}");
        assert_eq!(exeat.restore(target)["restored"], json!(true));
        assert_eq!(exeat.restore(target)["restored"], json!(false));
        assert_eq!(asks(&exeat, &up), 200, "{target} is restored");
    }
    let ended = exeat.record("the ended stream", |record| {
        record["kind"] == "access" && record["detail"].as_str().is_some_and(|detail| detail.contains("upstream up by uid"))
    });
    assert_eq!(ended["outcome"], "aborted");
    let revoked = exeat.record("the revocation", |record| record["event"] == "revoked" && record["target"] == "upstream up");
    assert_eq!((&revoked["reason"], &revoked["passages"], &revoked["durable"]), (&json!("drill"), &json!(1), &json!(true)));
    exeat.record("the restoration", |record| record["event"] == "restored" && record["target"] == "upstream up");
    assert!(exeat.metric(&["exeat_passages_ended_total", "cause=\"revoked\""]) >= 5.0);
}

#[test]
fn what_is_not_named_goes_on() {
    let (up, other) = (Upstream::http(), Upstream::http());
    let exeat =
        house(&up).upstream("other", &other).policy("other.yaml", &allow_all(&["other"]).replace("name: base", "name: other")).start();
    let mut live = stream(&exeat, &other);
    for target in ["upstream up", "credential up-jwt", "rule base/all-up", "workload spiffe://it.test/ns/it/sa/other", "lease 0192f0c1"] {
        assert_eq!(exeat.revoke(target)["passages_ended"], json!(0), "{target}");
    }
    assert_eq!(asks(&exeat, &other), 200);
    other.step(1);
    let events = live.take(b"9\r\ndata: 1\n\n\r\n".len()).expect("the stream goes on");
    assert!(String::from_utf8_lossy(&events).contains("data: 1"));
}

#[test]
fn a_grant_is_discarded_and_what_asks_anew_gets_another() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let mut live = stream(&exeat, &up);
    let grant = exeat.record("the grant", |record| record["event"] == "grant_issued")["grant"].as_str().expect("an id").to_owned();
    let told = exeat.revoke(&format!("grant {grant}"));
    assert_eq!((&told["passages_ended"], &told["grants"]["discarded"]), (&json!(1), &json!(1)), "{told}");
    live.until_end().expect("the stream that carried it was ended");
    let before = up.seen().last().expect("seen").bearer().expect("a token").to_owned();
    assert_eq!(asks(&exeat, &up), 200, "a grant is no block");
    assert_ne!(up.seen().last().expect("seen").bearer(), Some(before.as_str()), "with another credential");
    assert_eq!(exeat.admin("GET", "/v1/revocations", &Value::Null).json(), json!({ "revocations": [] }));
}

#[test]
fn a_restart_after_kill_9_is_still_revoked() {
    let up = Upstream::http();
    let mut exeat = house(&up).start();
    assert_eq!(asks(&exeat, &up), 200);
    exeat.revoke("upstream up");
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.relaunch();
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    let (code, page) = exeat.cli(&["revoke", "--list"]);
    assert!(code == 0 && page.contains("upstream up") && page.contains("drill"), "{page}");
    let (code, page) = exeat.cli(&["restore", "upstream", "up", "--reason", "drill is over"]);
    assert!(code == 0 && page.contains("restored upstream up"), "{page}");
    assert_eq!(asks(&exeat, &up), 200);
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.relaunch();
    assert_eq!(asks(&exeat, &up), 200, "a restoration is durable too");
    // What cannot be read is not taken for nothing.
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    fs::write(exeat.house.path().join("state/revocations"), "{").expect("written");
    let mut broken = exeat;
    let config = broken.config.display().to_string();
    let output = crate::harness::exeat::command(&["run", "-c", &config]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("revocations"), "{said}");
    assert!(broken.exited().is_some());
}

#[test]
fn the_signal_revokes_everything_and_readiness_says_so() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let mut live = stream(&exeat, &up);
    exeat.signal(Signal::SIGUSR1);
    live.until_end().expect("ended");
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    let ready = exeat.status("/readyz");
    assert!(ready.status == 200 && ready.text().contains("[!] revocations: everything is revoked since"), "{}", ready.text());
    until("the gauge", || (exeat.metric(&["exeat_revocations "]) >= 1.0).then_some(()));
    let (_, page) = exeat.cli(&["status"]);
    assert!(page.contains("revoked    everything") && page.contains("signal SIGUSR1"), "{page}");
    exeat.restore("everything");
    assert_eq!(asks(&exeat, &up), 200);
    assert_eq!(exeat.status("/readyz").text(), "ok\n");
}

#[test]
fn a_file_is_followed_and_its_mistakes_lift_nothing() {
    let up = Upstream::http();
    let house = house(&up).extra("revocations: { file: revoked.txt }");
    let file = house.path().join("revoked.txt");
    let write = |text: &str| {
        fs::write(file.with_extension("new"), text).expect("written");
        fs::rename(file.with_extension("new"), &file).expect("renamed");
    };
    write("");
    let mut exeat = house.start();
    let targets = |exeat: &Exeat| -> Vec<String> {
        let all = exeat.admin("GET", "/v1/revocations", &Value::Null).json();
        all["revocations"].as_array().expect("a list").iter().map(|one| one["target"].as_str().expect("text").to_owned()).collect()
    };
    let become_ = |exeat: &Exeat, wanted: &[&str]| until(&format!("{wanted:?} to be revoked"), || (targets(exeat) == wanted).then_some(()));
    let mut live = stream(&exeat, &up);
    write("# tonight\nupstream up # INC-7\n");
    live.until_end().expect("the stream was ended");
    become_(&exeat, &["upstream up"]);
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    exeat.revoke("rule base/all-up");
    let told = exeat.restore("upstream up");
    assert!(
        told["restored"] == json!(false) && told["warnings"][0].as_str().is_some_and(|why| why.contains("take its line away")),
        "{told}"
    );
    // A line that cannot be read: the good lines hold, and nothing that stood there before is lifted.
    write("upstraem up\nlease 7\n");
    become_(&exeat, &["upstream up", "rule base/all-up", "lease 7"]);
    assert!(exeat.status("/readyz").text().contains("line 1"), "{}", exeat.status("/readyz").text());
    // A file that is gone: its last set stays, over a restart too.
    fs::remove_file(&file).expect("removed");
    until("readyz to say so", || exeat.status("/readyz").text().contains("last known set of 2").then_some(()));
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.relaunch();
    become_(&exeat, &["upstream up", "rule base/all-up", "lease 7"]);
    // What leaves the file is restored, and what an operator revoked is not.
    write("lease 7\n");
    become_(&exeat, &["rule base/all-up", "lease 7"]);
    write("");
    become_(&exeat, &["rule base/all-up"]);
    exeat.restore("rule base/all-up");
    assert_eq!(asks(&exeat, &up), 200);
    assert_eq!(exeat.status("/readyz").text(), "ok\n");
    exeat.record("the file's word", |record| {
        record["event"] == "restored" && record["by"].as_str().is_some_and(|by| by.contains("revoked.txt"))
    });
}

#[test]
fn ten_thousand_revocations_are_in_force_and_one_more_is_refused() {
    const MOST: usize = 10_000;
    let up = Upstream::http();
    let house = house(&up).extra("revocations: { file: revoked.txt }");
    let file = house.path().join("revoked.txt");
    let write = |count: usize| {
        let lines: String =
            (0..count).map(|number| format!("lease l{number} # {}\n", "x".repeat(if number == 0 { 600 } else { 1 }))).collect();
        fs::write(file.with_extension("new"), lines).expect("written");
        fs::rename(file.with_extension("new"), &file).expect("renamed");
    };
    write(MOST - 1);
    let exeat = house.start();
    let in_force = |exeat: &Exeat| {
        let all = exeat.admin("GET", "/v1/revocations", &Value::Null).json();
        all["revocations"].as_array().expect("a list").clone()
    };
    until("the file to be in force", || (in_force(&exeat).len() == MOST - 1).then_some(()));
    let longest = in_force(&exeat).iter().map(|one| one["reason"].as_str().expect("text").chars().count()).max();
    assert_eq!(longest, Some(500), "a longer reason is cut");
    assert_eq!(exeat.revoke("rule base/other")["durable"], json!(true));
    let refused = exeat.admin("POST", "/v1/revoke", &json!({ "target": "lease one-more" }));
    assert!(refused.status == 409 && refused.text().contains("revoke a broader target, or `everything`"), "{}", refused.text());
    assert_eq!(exeat.revoke("lease l7")["already"], json!(true), "what is in force can be revoked again");
    assert_eq!(asks(&exeat, &up), 200);
    assert_eq!(exeat.revoke("everything")["durable"], json!(true), "the kill switch always has a place");
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    exeat.restore("everything");
    write(MOST + 1);
    until("readyz to say so", || exeat.status("/readyz").text().contains("more than 10000 targets; write `everything`").then_some(()));
}

#[test]
fn a_name_that_is_unknown_is_revoked_with_a_warning() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let told = exeat.revoke("upstream upp");
    assert!(told["warnings"][0].as_str().is_some_and(|why| why.contains("did you mean `up`?")), "{told}");
    assert!(exeat.revoke("workload spiffe://else.where/a")["durable"] == json!(true));
    let wrong = exeat.admin("POST", "/v1/revoke", &json!({ "target": "planet mars" }));
    assert!(
        wrong.status == 400 && wrong.json()["next_step"].as_str().is_some_and(|step| step.contains("upstream NAME")),
        "{}",
        wrong.text()
    );
    assert_eq!(exeat.admin("GET", "/v1/revoke", &Value::Null).status, 405, "a GET changes nothing");
    let (code, said) = exeat.cli(&["revoke", "planet", "mars"]);
    assert!(code == 64 && said.contains("upstream NAME"), "{said}");
    // The configuration on disk may be broken in that night: the command finds exeat without it.
    let socket = format!("unix://{}", exeat.house.path().join("admin.sock").display());
    fs::write(&exeat.config, "exeat: [").expect("written");
    let (code, said) = exeat.cli(&["revoke", "everything"]);
    assert!(code == 78 && said.contains("--admin unix://"), "{said}");
    let (code, said) = exeat.cli(&["revoke", "everything", "--admin", &socket, "--reason", "INC-7"]);
    assert!(code == 0 && said.starts_with("revoked everything: "), "{said}");
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
}

#[test]
fn what_cannot_be_made_durable_holds_and_says_so() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    // A directory in the way of the temporary file: no right of root's goes round it.
    let in_the_way = exeat.house.path().join("state/.revocations.tmp");
    fs::create_dir(&in_the_way).expect("made");
    fs::write(in_the_way.join("x"), "").expect("written");
    let told = exeat.revoke("upstream up");
    assert!(told["durable"] == json!(false) && told["not_durable_because"].as_str().is_some_and(|why| why.contains("state")), "{told}");
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    assert!(exeat.status("/readyz").text().contains("[!] revocations_durable: "), "{}", exeat.status("/readyz").text());
    let answer = exeat.admin("POST", "/v1/restore", &json!({ "target": "upstream up" }));
    assert_eq!(answer.status, 500, "what cannot be made durable is not opened: {}", answer.text());
    exeat.ask("mesh", "GET", "/asks", &up.authority(), &[]).must_refuse(403, "revoked");
    fs::remove_dir_all(&in_the_way).expect("removed");
    until("the next try", || (exeat.status("/readyz").text() == "ok\n").then_some(()));
    let kept = fs::read(exeat.house.path().join("state/revocations")).expect("kept");
    assert!(String::from_utf8_lossy(&kept).contains("upstream up"));
}

/// A caller that reads nothing: the engine polls no body for it, so ending the passage politely would never end it.
#[test]
fn a_caller_that_does_not_read_is_cut_and_its_neighbours_are_not() {
    let (up, other) = (Upstream::http(), Upstream::http());
    let exeat =
        house(&up).upstream("other", &other).policy("other.yaml", &allow_all(&["other"]).replace("name: base", "name: other")).start();
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let ask = |authority: &str, path: &str| h2::request("GET", "http", authority, path, &[]);
        let (stalled, _) = client.open(ask(&up.authority(), "/stream/100000000"), true).await.expect("opened");
        let mut stalled = stalled.await.expect("a head").into_body();
        let (neighbour, _) = client.open(ask(&other.authority(), "/sse/1000"), true).await.expect("opened");
        let mut neighbour = neighbour.await.expect("a head").into_body();
        h2::next(&mut neighbour).await.expect("an event").expect("an event");
        // The window of a MiB is full when so much has come; none of it is read.
        let full = async {
            while stalled.flow_control().used_capacity() < 1 << 20 {
                std::future::poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    std::task::Poll::Ready(())
                })
                .await;
                tokio::task::yield_now().await;
            }
        };
        let _filled = tokio::time::timeout(Duration::from_secs(5), full).await;
        let told = exeat.revoke("upstream up");
        assert_eq!(told["passages_ended"], json!(1), "{told}");
        let end = async {
            loop {
                match stalled.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.reason(),
                    None => return None,
                }
            }
        };
        let reason = tokio::time::timeout(crate::harness::BOUND, end).await.expect("reset");
        assert!(reason.is_some(), "a cut stream looks cut");
        other.step(1);
        assert_eq!(h2::next(&mut neighbour).await.expect("an event").expect("the connection stands"), "data: 1\n\n");
    });
    exeat.record("the cut passage", |record| record["kind"] == "access" && record["path"] == "/stream/100000000");
    // The same over HTTP/1.1, which has nothing but its connection.
    exeat.restore("upstream up");
    let mut deaf = exeat.wire("mesh");
    deaf.send(&request("GET", "/stream/200000000", &up.authority(), &[], b""));
    until("the request at the upstream", || (up.matching("/stream/200000000").len() == 1).then_some(()));
    assert_eq!(exeat.revoke("upstream up")["passages_ended"], json!(1));
    exeat.record("the cut connection", |record| record["kind"] == "access" && record["path"] == "/stream/200000000");
}

#[test]
fn a_reload_that_denies_ends_what_it_denies_within_a_second() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let mut live = stream(&exeat, &up);
    exeat.write_policy("base.yaml", &policy_head("base").replace("rules:\n", "rules: []\n"));
    exeat.reload();
    let reloaded = exeat.record("the reload", |record| record["event"] == "reload");
    live.until_end().expect("ended");
    let ended = exeat.record("the stream", |record| record["kind"] == "access" && record["path"] == "/sse/1000");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("after a reload")), "{ended} {reloaded}");
}

#[test]
fn an_identity_that_is_withdrawn_ends_its_passages() {
    let up = Upstream::http();
    let me = nix::unistd::geteuid().as_raw();
    let workload = |uid: u32| format!("{{ unix_peer: {{ workloads: [{{ uid: {uid}, id: \"{APP}\" }}] }} }}");
    let exeat = House::new()
        .socket("local", Capture::Host, "me")
        .identity("me", &workload(me))
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .start();
    let mut live = Wire::unix(&exeat.socket_path("local"));
    live.send(&request("GET", "/sse/1000", &up.authority(), &[], b""));
    let head = live.open_answer().expect("a head");
    live.part(&head.fields).expect("an event");
    fs::write(&exeat.config, exeat.house.written().replace(&workload(me), &workload(me + 1))).expect("written");
    exeat.reload();
    live.until_end().expect("ended");
    let ended = exeat.record("the stream", |record| record["kind"] == "access" && record["path"] == "/sse/1000");
    // By the news of the reload, or by a sweep that came before it.
    let detail = ended["detail"].as_str().expect("a detail");
    assert!(detail.contains("no longer proves its workload") || detail.contains("after a reload"), "{ended}");
}

#[test]
fn a_tunnel_that_is_still_being_looked_into_is_ended() {
    let up = Upstream::https();
    let exeat =
        House::new().listener("egress", Capture::Forward).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).admin().start();
    let mut silent = exeat.wire("egress").connect(&up.authority());
    let mut half = exeat.wire("egress").connect(&up.authority());
    half.send(b"\x16\x03\x01");
    assert_eq!(exeat.revoke("upstream up")["passages_ended"], json!(2));
    for wire in [&mut silent, &mut half] {
        assert!(wire.until_end().expect("closed").is_empty());
    }
    assert_eq!(up.wire_bytes(), 0);
}
