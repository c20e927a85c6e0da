//! Story: between a stop and the next start somebody breaks a file. What served before serves again, and everybody can see how old it is;
//! where it no longer fits the configuration, nothing is let through.

use std::fs;

use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::harness::exeat::{APP, Capture, policy_head};
use crate::harness::{Exeat, House, Upstream, until};

/// Lets the app read below one path.
fn read(path: &str, upstream: &str) -> String {
    policy_head("base")
        + &format!("  - {{ id: read, effect: allow, to: [{upstream}], methods: [GET], paths: [\"/{path}/**\"], grant: {upstream}-jwt }}\n")
}

const BROKEN: &str = "exeat: policy/v1\nname: [\n";

fn stop(exeat: &mut Exeat) {
    exeat.signal(Signal::SIGTERM);
    assert_eq!(exeat.wait().code(), Some(0), "{}", exeat.output());
}

/// Since when the last good policies are what they are, as readyz says.
fn kept_since(exeat: &Exeat) -> Timestamp {
    let ready = exeat.status("/readyz");
    let text = ready.text();
    assert_eq!(ready.status, 200, "{text}");
    let (_, rest) = text.split_once("[!] policy_files: the last good policies of ").unwrap_or_else(|| panic!("readyz says: {text}"));
    let (since, why) = rest.split_once(" serve, because the files are wrong:\n").unwrap_or_else(|| panic!("readyz says: {text}"));
    assert!(why.contains("base.yaml") || why.contains("base.test.yaml"), "readyz names the broken file: {text}");
    since.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Which set let a request for a path through.
fn let_through_by(exeat: &Exeat, path: &str) -> String {
    let record = exeat.record("what was let through", |record| record["outcome"] == "allowed" && record["path"] == path);
    record["policy"].as_str().expect("a policy").to_owned()
}

#[test]
fn a_start_with_broken_files_serves_the_last_good_policies() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &read("first", "up"))
        .extra("drain: { delay: 1ms, deadline: 5s }")
        .start();
    let ask = |exeat: &Exeat, path: &str| exeat.ask("mesh", "GET", path, &up.authority(), &[("connection", "close")]).status;
    assert_eq!(ask(&exeat, "/first/x"), 200);
    // What was taken over while it ran is what is kept, not what it started with.
    let before = Timestamp::now();
    exeat.write_policy("base.yaml", &read("second", "up"));
    exeat.reload();
    until("the second set to hold", || (ask(&exeat, "/second/x") == 200).then_some(()));
    let second = let_through_by(&exeat, "/second/x");
    stop(&mut exeat);
    let after = Timestamp::now();

    exeat.write_policy("base.yaml", BROKEN);
    exeat.relaunch();
    let since = kept_since(&exeat);
    assert!(before <= since && since <= after, "taken over between {before} and {after}, and readyz says {since}");
    assert_eq!((ask(&exeat, "/second/again"), ask(&exeat, "/first/again")), (200, 403), "the former rules, no others");
    assert_eq!(let_through_by(&exeat, "/second/again"), second, "the records name the set that judged before");
    assert!(exeat.output().contains("the policies are wrong: the last good ones serve"), "{}", exeat.output());

    // Another start in the same trouble makes it no younger; nor does a kill, or files that are right but for a test that they require.
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.write_policy("base.yaml", &read("third", "up"));
    let test = format!(
        "exeat: policytest/v1\nat: 2026-11-23T10:00:00Z\ninvariants:\n  - {{ name: nobody reads, never: {{ from: \"{APP}\", to: up }} }}\n"
    );
    exeat.write_policy("base.test.yaml", &test);
    exeat.relaunch();
    assert_eq!(kept_since(&exeat), since);
    assert_eq!((ask(&exeat, "/second/once-more"), ask(&exeat, "/third/x")), (200, 403));
    assert!(exeat.status("/readyz").text().contains("nobody reads"), "{}", exeat.status("/readyz").text());

    // Mended, without a signal: taken over, and the trouble is over.
    fs::remove_file(exeat.house.path().join("policies/base.test.yaml")).expect("removed");
    until("the mended files to hold", || (ask(&exeat, "/third/x") == 200).then_some(()));
    assert_eq!(ask(&exeat, "/second/x"), 403);
    let ready = until("the word of readyz", || Some(exeat.status("/readyz")).filter(|ready| ready.text() == "ok\n"));
    assert_eq!(ready.status, 200);
    stop(&mut exeat);

    // And from here on it is this set that is kept.
    exeat.write_policy("base.yaml", BROKEN);
    exeat.relaunch();
    assert!(kept_since(&exeat) > since);
    assert_eq!((ask(&exeat, "/third/again"), ask(&exeat, "/second/again")), (200, 403));
}

#[test]
fn the_last_good_policies_serve_no_configuration_that_they_do_not_fit() {
    let (up, other) = (Upstream::http(), Upstream::http());
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .upstream("other", &other)
        .policy("base.yaml", &read("kept", "up"))
        .extra("drain: { delay: 1ms, deadline: 5s }")
        .start();
    let ask = |exeat: &Exeat, upstream: &Upstream| exeat.ask("mesh", "GET", "/kept/x", &upstream.authority(), &[("connection", "close")]);
    assert_eq!(ask(&exeat, &up).status, 200);
    stop(&mut exeat);

    // The upstream that the kept rules are about is in the configuration no more.
    let fitting = fs::read_to_string(&exeat.config).expect("read");
    let without: String = fitting.lines().filter(|line| !line.starts_with("  up: ")).map(|line| format!("{line}\n")).collect();
    assert!(without.len() < fitting.len());
    fs::write(&exeat.config, &without).expect("written");
    exeat.write_policy("base.yaml", BROKEN);
    exeat.relaunch_as_it_is();
    let ready = until("the status server", || exeat.try_status("/readyz"));
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.text().contains("[-] policy: ") && ready.text().contains("base.yaml"), "{}", ready.text());
    for upstream in [&up, &other] {
        ask(&exeat, upstream).must_refuse(503, "not_ready");
    }
    assert_eq!(other.count(), 0);
    stop(&mut exeat);

    // That start took nothing away: where the configuration fits again, they serve again.
    fs::write(&exeat.config, &fitting).expect("written");
    exeat.relaunch();
    kept_since(&exeat);
    assert_eq!(ask(&exeat, &up).status, 200);
    stop(&mut exeat);

    // And a start that lets nothing through takes over what is mended meanwhile.
    fs::write(&exeat.config, &without).expect("written");
    exeat.relaunch_as_it_is();
    until("the status server", || exeat.try_status("/readyz"));
    exeat.write_policy("base.yaml", &read("kept", "other"));
    exeat.ready();
    assert_eq!(exeat.status("/readyz").text(), "ok\n");
    assert_eq!(ask(&exeat, &other).status, 200);
    ask(&exeat, &up).must_refuse(403, "unlisted");
}
