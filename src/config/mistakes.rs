//! The text that an operator sees for every kind of mistake.
#![expect(clippy::too_many_lines, reason = "each group of mistakes stands beside the texts that it gives")]

use std::path::Path;

use super::{Loaded, load};
use crate::clock::ManualClock;
use crate::written::Diagnostic;

/// A right file; each test makes it wrong.
const RIGHT: &str = r#"exeat: config/v1
state: /var/lib/exeat
trust_domain: t.example
listeners:
  egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod] }
  ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
identities:
  pod: { fixed: { id: "spiffe://t.example/ns/a/sa/b" } }
  local: { unix_peer: { workloads: [{ uid: 1001, id: "spiffe://t.example/ns/a/sa/c" }] } }
upstreams:
  ledger:
    owner: team@t.example
    origins: ["https://ledger.example:8443"]
    credentials: [jwt]
credentials:
  jwt: { local_jwt: { issuer: "https://exeat.t.example", scopes: [read] } }
policies: [{ directory: p, bounds: all }]
status: { address: "127.0.0.1:15090" }
"#;

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("p")).unwrap();
        std::fs::write(dir.path().join("p/a.yaml"), "").unwrap();
        std::fs::write(dir.path().join("broken.pem"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
        std::fs::write(dir.path().join("empty.pem"), "").unwrap();
        Self { dir }
    }

    fn load(&self, text: impl AsRef<[u8]>) -> Result<Loaded, Vec<Diagnostic>> {
        let path = self.dir.path().join("exeat.yaml");
        std::fs::write(&path, text).unwrap();
        load(&path, &ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap()))
    }

    fn shown(&self, diagnostics: &[Diagnostic]) -> String {
        let root = format!("{}/", self.dir.path().display());
        // the arrow moves with the width of the line number; what is compared should not move with the directory
        diagnostics.iter().map(|one| one.render().replace(&root, "")).collect::<Vec<_>>().join("\n\n")
    }

    fn errors(&self, text: impl AsRef<[u8]>) -> String {
        match self.load(text) {
            Ok(_) => panic!("this should be a mistake"),
            Err(errors) => self.shown(&errors),
        }
    }
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(RIGHT.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in the right file");
        text.replacen(from, to, 1)
    })
}

/// The texts for a group of one-edit mistakes.
fn mistakes(edits: &[(&str, &str)]) -> String {
    let desk = Desk::new();
    edits.iter().map(|edit| desk.errors(edited(&[*edit]))).collect::<Vec<_>>().join("\n\n")
}

/// The texts of the warnings of a group of one-edit files.
fn warnings(edits: &[&[(&str, &str)]]) -> String {
    let desk = Desk::new();
    let one = |edits: &&[(&str, &str)]| match desk.load(edited(edits)) {
        Ok(loaded) => desk.shown(&loaded.warnings),
        Err(errors) => panic!("{}", desk.shown(&errors)),
    };
    edits.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn the_right_file_is_right() {
    let loaded = Desk::new().load(RIGHT).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.profiles[0].audience.as_deref(), Some("https://ledger.example:8443"));
    assert_eq!(loaded.config.listeners[1].route.as_deref(), Some("ledger"));
    assert_eq!(loaded.policies.len(), 1);
}

#[test]
fn a_network_that_could_hold_no_address_is_a_mistake() {
    let told =
        |network: &str| mistakes(&[("credentials: [jwt]", &format!("credentials: [jwt]\n    reach: {{ networks: [\"{network}\"] }}"))]);
    for (network, meant) in [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:aaf1:f/124", "170.241.0.0/28"), ("::ffff:0:0/96", "0.0.0.0/0")]
    {
        let told = told(network);
        assert!(told.contains("holds no address") && told.contains(&format!("did you mean `{meant}`?")), "{told}");
    }
}

/// YAML ends a line, and a comment with it, at a carriage return; editors and reviews show one line.
#[test]
fn nothing_hides_behind_a_carriage_return() {
    let hidden = RIGHT.replacen("status:", "# nothing to see\rtelemetry: { sampler: always_off }\nstatus:", 1);
    let told = Desk::new().errors(hidden);
    assert!(told.starts_with("error: a carriage return stands alone") && told.contains("exeat.yaml:18:17"), "{told}");
    Desk::new().load(RIGHT.replace('\n', "\r\n")).unwrap();
}

#[test]
fn the_form() {
    insta::assert_snapshot!(mistakes(&[
        ("listeners:", "listners:"),
        ("capture: forward", "captur: forward"),
        ("status:", "colour: blue\nstatus:"),
        ("state: /var", "state: /tmp\nstate: /var"),
        ("    owner: team@t.example\n", ""),
        ("state: /var/lib/exeat\n", ""),
        ("capture: forward", "capture: forwards"),
        ("capture: forward", "capture: [forward]"),
        ("identity: [pod]", "identity: pod"),
        ("uid: 1001", "uid: 99999999999"),
        ("uid: 1001", "uid: root"),
        ("owner: team@t.example", "owner:"),
        ("owner: team@t.example", "intercept: no"),
        ("origins: [\"https://ledger.example:8443\"]", "origins: \"https://ledger.example:8443\""),
        ("credentials: [jwt]", "credentials: [*]"),
        ("credentials: [jwt]", "credentials: *all"),
        ("credentials: [jwt]", "credentials: &all [jwt]"),
        ("credentials: [jwt]", "credentials: !all [jwt]"),
        ("    owner:", "    <<: {}\n    owner:"),
        ("    owner:", "\towner:"),
        ("credentials: [jwt]", "credentials: [jwt"),
        ("policies:", "---\npolicies:"),
    ]), @r#"
    error[unknown-field]: unknown field `listners`
     --> exeat.yaml:4:1
      |
    4 | listners:
      | ^^^^^^^^
      |
      = help: did you mean `listeners`?

    error[missing-field]: field `capture` is missing
     --> exeat.yaml:5:11
      |
    5 |   egress: { address: "127.0.0.1:15001", captur: forward, identity: [pod] }
      |           ^

    error[unknown-field]: unknown field `captur`
     --> exeat.yaml:5:41
      |
    5 |   egress: { address: "127.0.0.1:15001", captur: forward, identity: [pod] }
      |                                         ^^^^^^
      |
      = help: did you mean `capture`?

    error[unknown-field]: unknown field `colour`
      --> exeat.yaml:18:1
       |
    18 | colour: blue
       | ^^^^^^
       |
       = help: the fields here are: exeat, requires, state, trust_domain, threads, listeners, identities, upstreams, credentials, unlisted, policies, telemetry, audit, admin, status, revocations, limits, drain

    error[duplicate-key]: `state` stands twice in this mapping
     --> exeat.yaml:3:1
      |
    3 | state: /var/lib/exeat
      | ^^^^^
      |
      = help: keep one of the two

    error[missing-field]: field `owner` is missing
      --> exeat.yaml:12:5
       |
    12 |     origins: ["https://ledger.example:8443"]
       |     ^^^^^^^

    error[missing-field]: field `state` is missing
     --> exeat.yaml:1:1
      |
    1 | exeat: config/v1
      | ^^^^^

    error[unknown-word]: unknown word `forwards`
     --> exeat.yaml:5:50
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forwards, identity: [pod] }
      |                                                  ^^^^^^^^
      |
      = help: did you mean `forward`?

    error: expected a word, or one `word: ..`, found a list
     --> exeat.yaml:5:50
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: [forward], identity: [pod] }
      |                                                  ^
      |
      = help: the words here are: route, host, forward

    error: expected a list, found a single value
     --> exeat.yaml:5:69
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: pod }
      |                                                                     ^^^
      |
      = help: write `[one, another]`, or indented lines of `- one`

    error: expected u32, found `99999999999`
     --> exeat.yaml:9:44
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 99999999999, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                            ^^^^^^^^^^^

    error: expected a whole number, found a single value
     --> exeat.yaml:9:44
      |
    9 |   local: { unix_peer: { workloads: [{ uid: root, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                            ^^^^

    error: expected a text, found nothing
      --> exeat.yaml:12:10
       |
    12 |     owner:
       |          ^

    error: expected true or false, found a single value
      --> exeat.yaml:12:16
       |
    12 |     intercept: no
       |                ^^
       |
       = help: write `true` or `false`; `yes`, `no`, `on` and `off` are texts

    error: expected a list, found a single value
      --> exeat.yaml:13:14
       |
    13 |     origins: "https://ledger.example:8443"
       |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write `[one, another]`, or indented lines of `- one`

    error: `*` begins a YAML alias, `&` an anchor
      --> exeat.yaml:14:19
       |
    14 |     credentials: [*]
       |                   ^
       |
       = help: quote a pattern that begins with `*`: "*"

    error: `*` begins a YAML alias, and aliases are not supported
      --> exeat.yaml:14:18
       |
    14 |     credentials: *all
       |                  ^
       |
       = help: quote a pattern that begins with `*`: "*"

    error: `&` begins a YAML anchor, and anchors are not supported
      --> exeat.yaml:14:18
       |
    14 |     credentials: &all [jwt]
       |                  ^
       |
       = help: write the value out where it is used; quote a text that begins with `&`

    error: YAML tags (`!`) are not supported
      --> exeat.yaml:14:23
       |
    14 |     credentials: !all [jwt]
       |                       ^
       |
       = help: quote a text that begins with `!`

    error: merge keys (`<<`) are not supported
      --> exeat.yaml:12:5
       |
    12 |     <<: {}
       |     ^^
       |
       = help: write the fields out where they are used

    error: tabs disallowed within this context (block indentation)
      --> exeat.yaml:12:2
       |
    12 |  owner: team@t.example
       |  ^^^^^
       |
       = help: indent with spaces

    error: illegal placement of ':' indicator
      --> exeat.yaml:15:12
       |
    15 | credentials:
       |            ^
       |
       = help: the text is no YAML from here on; the mistake may stand a little before

    error: a second document begins here; a file holds one
      --> exeat.yaml:17:1
       |
    17 | ---
       | ^^^
       |
       = help: remove the `---`
    "#);
}

#[test]
fn the_file() {
    let desk = Desk::new();
    let mut shown = vec![desk.errors(""), desk.errors("# nothing\n"), desk.errors(b"state: \xff\n"), desk.errors("[".repeat(40))];
    shown.push(desk.errors(format!("state: {}\n", "a".repeat(8 << 20))));
    let clock = ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap());
    for path in ["absent.yaml", "p"] {
        shown.push(desk.shown(&load(&desk.dir.path().join(path), &clock).unwrap_err()));
    }
    insta::assert_snapshot!(shown.join("\n\n"), @r#"
    error: the file is empty
     --> exeat.yaml:1:1
      |
    1 |
      | ^

    error: the file is empty
     --> exeat.yaml:1:1
      |
    1 | # nothing
      | ^^^^^^^^^

    error: the configuration cannot be read: `exeat.yaml` is not UTF-8 (byte 7)
    --> exeat.yaml
     = help: name it with `-c FILE`

    error[over-budget]: nested more than 32 levels deep
     --> exeat.yaml:1:34
      |
    1 | [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
      |                                  ^

    error: the configuration cannot be read: `exeat.yaml`: more than 8388608 bytes
    --> exeat.yaml
     = help: name it with `-c FILE`

    error: the configuration cannot be read: `absent.yaml`: No such file or directory (os error 2)
    --> absent.yaml
     = help: name it with `-c FILE`

    error: the configuration cannot be read: `p`: not a plain file
    --> p
     = help: name it with `-c FILE`
    "#);
}

#[test]
fn the_process() {
    insta::assert_snapshot!(mistakes(&[
        ("config/v1", "config/v2"),
        ("config/v1", "policy/v1"),
        ("state: /var", "requires: [identity.fixd, credential.vault]\nstate: /var"),
        ("trust_domain: t.example", "trust_domain: spiffe://t.example"),
        ("trust_domain: t.example", "trust_domain: T.Example"),
        ("state: /var/lib/exeat", "state: \"\""),
        ("state: /var", "threads: 0\nstate: /var"),
        ("status:", "audit: { syslog: x }\nstatus:"),
        ("status:", "audit: { file: \"\" }\nstatus:"),
        ("status:", "admin: { address: \"127.0.0.1:15091\" }\nstatus:"),
        ("status:", "admin: { address: \"0.0.0.0:15091\", token_file: t }\nstatus:"),
        ("status:", "admin: { address: \"127.0.0.1:15091\", allow_uids: [0] }\nstatus:"),
        ("status:", "admin: { address: \"unix:///a.sock\", token_file: t }\nstatus:"),
        ("status:", "admin: { address: \"unix:///a.sock\", allow_uids: [] }\nstatus:"),
        ("status:", "revocations: { file: \"\" }\nstatus:"),
        ("status:", "revocations: { fiel: revoked }\nstatus:"),
        ("status:", "telemetry: { otlp: { endpoint: collector } }\nstatus:"),
        ("status:", "telemetry: { sampler: { ratio: 2 } }\nstatus:"),
        ("status:", "telemetry: { otlp: { endpoint: \"http://c:4317\", headers: { \"a b\": \"${env:X}\" } } }\nstatus:"),
        ("status:", "limits: { head_sise: 1KiB }\nstatus:"),
        ("status:", "limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }\nstatus:"),
        ("status:", "drain: { delay: 30s, deadline: 10s }\nstatus:"),
        ("status:", "unlisted: { observe: { until: 2027-06-01 } }\nstatus:"),
        ("status:", "unlisted: allow\nstatus:"),
    ]), @r#"
    error: `config/v2` is not a form of configuration that this binary knows
     --> exeat.yaml:1:8
      |
    1 | exeat: config/v2
      |        ^^^^^^^^^
      |
      = help: write `exeat: config/v1`

    error: this is a policy file
     --> exeat.yaml:1:8
      |
    1 | exeat: policy/v1
      |        ^^^^^^^^^
      |
      = help: name the configuration; policy files stand in the directories of `policies`

    error: this binary does not provide `identity.fixd`
     --> exeat.yaml:2:12
      |
    2 | requires: [identity.fixd, credential.vault]
      |            ^^^^^^^^^^^^^
      |
      = help: did you mean `identity.fixed`?

    error: this binary does not provide `credential.vault`
     --> exeat.yaml:2:27
      |
    2 | requires: [identity.fixd, credential.vault]
      |                           ^^^^^^^^^^^^^^^^
      |
      = help: did you mean `credential.secret`?

    error: `spiffe://t.example` is not a trust domain
     --> exeat.yaml:3:15
      |
    3 | trust_domain: spiffe://t.example
      |               ^^^^^^^^^^^^^^^^^^
      |
      = help: write it without `spiffe://`

    error: `T.Example` is not a trust domain
     --> exeat.yaml:3:15
      |
    3 | trust_domain: T.Example
      |               ^^^^^^^^^
      |
      = help: 1 to 255 of a-z, 0-9, `.`, `-` and `_`

    error: `state` names no directory
     --> exeat.yaml:2:8
      |
    2 | state: ""
      |        ^^
      |
      = help: write `state: /var/lib/exeat`, or `ephemeral`

    error: `0` threads cannot be had
     --> exeat.yaml:2:10
      |
    2 | threads: 0
      |          ^
      |
      = help: 1 to 256; leave it out for one for each processor

    error[unknown-word]: unknown word `syslog`
      --> exeat.yaml:18:10
       |
    18 | audit: { syslog: x }
       |          ^^^^^^
       |
       = help: the words here are: file, stdout

    error: the audit file has no name
      --> exeat.yaml:18:16
       |
    18 | audit: { file: "" }
       |                ^^
       |
       = help: write `audit: { file: /var/lib/exeat/audit }`

    error: an admin server on TCP needs a token
      --> exeat.yaml:18:19
       |
    18 | admin: { address: "127.0.0.1:15091" }
       |                   ^^^^^^^^^^^^^^^^^
       |
       = help: use unix:///run/exeat/admin.sock, or add `token_file: PATH`

    error: the admin server never leaves this host
      --> exeat.yaml:18:19
       |
    18 | admin: { address: "0.0.0.0:15091", token_file: t }
       |                   ^^^^^^^^^^^^^^^
       |
       = help: use a unix socket, or an address on 127.0.0.1 or [::1]

    error: TCP does not tell the admin server who asks
      --> exeat.yaml:18:50
       |
    18 | admin: { address: "127.0.0.1:15091", allow_uids: [0] }
       |                                                  ^
       |
       = help: use a unix socket, or `token_file`

    error: a unix socket asks the kernel who it is, not for a token
      --> exeat.yaml:18:49
       |
    18 | admin: { address: "unix:///a.sock", token_file: t }
       |                                                 ^
       |
       = help: write `allow_uids: [0]`

    error: `allow_uids` is empty: nobody could ask
      --> exeat.yaml:18:19
       |
    18 | admin: { address: "unix:///a.sock", allow_uids: [] }
       |                   ^^^^^^^^^^^^^^^^
       |
       = help: list uids, or remove the field for exeat's own

    error: `file` names no file
      --> exeat.yaml:18:22
       |
    18 | revocations: { file: "" }
       |                      ^^
       |
       = help: write `revocations: { file: revoked }`, or take it away

    error[unknown-field]: unknown field `fiel`
      --> exeat.yaml:18:16
       |
    18 | revocations: { fiel: revoked }
       |                ^^^^
       |
       = help: did you mean `file`?

    error: the endpoint of `otlp` is not a URL of a collector
      --> exeat.yaml:18:32
       |
    18 | telemetry: { otlp: { endpoint: [hidden]
       |                                ^
       |
       = help: write http://HOST:4318 (http) or http://HOST:4317 (grpc)

    error: `2` is not a part of all traces: 0 is none, 1 is all
      --> exeat.yaml:18:32
       |
    18 | telemetry: { sampler: { ratio: 2 } }
       |                                ^

    error: `a b` is not a header name
      --> exeat.yaml:18:60
       |
    18 | telemetry: { otlp: { endpoint: "http://c:4317", headers: { "a b": "${env:X}" } } }
       |                                                            ^^^^^

    error[unknown-field]: unknown field `head_sise`
      --> exeat.yaml:18:11
       |
    18 | limits: { head_sise: 1KiB }
       |           ^^^^^^^^^
       |
       = help: did you mean `head_size`?

    error: `64KB` is not a size
      --> exeat.yaml:18:22
       |
    18 | limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }
       |                      ^^^^
       |
       = help: write bytes, or a whole number and a unit: 512B, 64KiB, 1MiB

    error: `10` is not a length of time
      --> exeat.yaml:18:39
       |
    18 | limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }
       |                                       ^^
       |
       = help: write a whole number and a unit: 500ms, 10s, 5m, 1h, 30d

    error: `0` is out of bounds: at least 1, at most 1000
      --> exeat.yaml:18:56
       |
    18 | limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }
       |                                                        ^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error: `0s` is out of bounds: at least 1ms, at most 60s
      --> exeat.yaml:18:68
       |
    18 | limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }
       |                                                                    ^^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error: `365d` is out of bounds: at least 1ms, at most 86400s
      --> exeat.yaml:18:85
       |
    18 | limits: { head_size: 64KB, head_time: 10, head_fields: 0, connect: 0s, stream_idle: 365d }
       |                                                                                     ^^^^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error: the deadline (10s) ends before the delay (30s)
      --> exeat.yaml:18:32
       |
    18 | drain: { delay: 30s, deadline: 10s }
       |                                ^^^
       |
       = help: both count from SIGTERM; in-flight work needs the time between them

    error: an observation ends within 30 days
      --> exeat.yaml:18:31
       |
    18 | unlisted: { observe: { until: 2027-06-01 } }
       |                               ^^^^^^^^^^
       |
       = help: the latest end is 2026-12-21; move it on while you still learn

    error[unknown-word]: unknown word `allow`
      --> exeat.yaml:18:11
       |
    18 | unlisted: allow
       |           ^^^^^
       |
       = help: the words here are: refuse, observe
    "#);
}

#[test]
fn the_listeners() {
    insta::assert_snapshot!(mistakes(&[
        ("  egress:", "  e gress:"),
        ("listeners:\n  egress: { address: \"127.0.0.1:15001\", capture: forward, identity: [pod] }\n  ledger: { address: \"unix:///run/l.sock\", capture: route, upstream: ledger, identity: [local] }\n", "listeners: {}\n"),
        ("127.0.0.1:15001", "localhost:15001"),
        ("127.0.0.1:15001", "127.0.0.1"),
        ("unix:///run/l.sock", "unix://run/l.sock"),
        ("127.0.0.1:15001", "127.0.0.1:15090"),
        ("127.0.0.1:15001", "0.0.0.0:15090"),
        ("127.0.0.1:15001", "unix:///run/l.sock"),
        ("capture: forward, identity: [pod]", "capture: forward, identity: [pod], permissions: \"0660\""),
        ("upstream: ledger, identity: [local]", "upstream: ledger, identity: [local], permissions: \"888\""),
        ("capture: route, upstream: ledger,", "capture: route,"),
        ("capture: forward,", "capture: forward, upstream: ledger,"),
        ("upstream: ledger", "upstream: leger"),
        ("[\"https://ledger.example:8443\"]", "[\"https://*.ledger.example:8443\"]"),
        ("[\"https://ledger.example:8443\"]", "[\"https://ledger.example:8443\", \"https://ledger.example\"]"),
        ("identity: [pod]", "identity: []"),
        ("identity: [pod]", "identity: [pd]"),
        ("identity: [local]", "identity: [local, local]"),
        ("identity: [pod]", "identity: [pod, local]"),
        ("\"127.0.0.1:15001\", capture: forward, identity: [pod]", "\"10.0.0.1:15001\", capture: forward, identity: [local]"),
    ]), @r#"
    error: `e gress` cannot be the name of a listener
     --> exeat.yaml:5:3
      |
    5 |   e gress: { address: "127.0.0.1:15001", capture: forward, identity: [pod] }
      |   ^^^^^^^
      |
      = help: letters, digits, `-`, `_` and `.`, beginning with a letter or digit, 63 at most

    error: there is no listener: no traffic could come in
     --> exeat.yaml:1:1
      |
    1 | exeat: config/v1
      | ^^^^^
      |
      = help: add one under `listeners`

    error: `localhost:15001` is not an address to listen on
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "localhost:15001", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: an address is never looked up: write 127.0.0.1 or [::1]

    error: `127.0.0.1` is not an address to listen on
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "127.0.0.1", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^
      |
      = help: write IP:PORT (127.0.0.1:15001, [::1]:15001) or unix:///run/exeat/name.sock

    error: the path of a unix socket is absolute
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "unix://run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^^^
      |
      = help: write unix:///run/exeat/name.sock, with three slashes

    error: `status` wants `127.0.0.1:15090`, which listener `egress` has
      --> exeat.yaml:18:20
       |
    18 | status: { address: "127.0.0.1:15090" }
       |                    ^^^^^^^^^^^^^^^^^
       |
       = help: every listener and server has an address of its own

    error: `status` wants `127.0.0.1:15090`, which listener `egress` has (as `0.0.0.0:15090`)
      --> exeat.yaml:18:20
       |
    18 | status: { address: "127.0.0.1:15090" }
       |                    ^^^^^^^^^^^^^^^^^
       |
       = help: every listener and server has an address of its own

    error: listener `ledger` wants `unix:///run/l.sock`, which listener `egress` has
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^^^^
      |
      = help: every listener and server has an address of its own

    error: only a unix socket has permissions
     --> exeat.yaml:5:89
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod], permissions: "0660" }
      |                                                                                         ^^^^^^
      |
      = help: remove the field

    error: `888` is not a file mode
     --> exeat.yaml:6:110
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local], permissions: "888" }
      |                                                                                                              ^^^^^
      |
      = help: write three octal digits, such as "0660"

    error: listener `ledger` captures by `route` and names no upstream
     --> exeat.yaml:6:53
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, identity: [local] }
      |                                                     ^^^^^
      |
      = help: add `upstream: NAME`, the one upstream that this listener is

    error: only a `route` listener names an upstream; others find it in the request
     --> exeat.yaml:5:69
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, upstream: ledger, identity: [pod] }
      |                                                                     ^^^^^^
      |
      = help: remove it, or write `capture: route`

    error[unknown-name]: there is no upstream `leger`
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: leger, identity: [local] }
      |                                                                      ^^^^^
      |
      = help: did you mean `ledger`?

    error: listener `ledger` is one upstream, but `ledger` is not one place
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                                                                      ^^^^^^
      |
      = help: a `route` listener needs an upstream with exactly one origin without `*`

    error: credential `jwt` has no audience
      --> exeat.yaml:16:3
       |
    16 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", scopes: [read] } }
       |   ^^^
       |
       = help: write `audience:`; it is only told from an upstream where exactly one, with one exact origin, lists this credential

    error: listener `ledger` is one upstream, but `ledger` is not one place
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                                                                      ^^^^^^
      |
      = help: a `route` listener needs an upstream with exactly one origin without `*`

    error: credential `jwt` has no audience
      --> exeat.yaml:16:3
       |
    16 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", scopes: [read] } }
       |   ^^^
       |
       = help: write `audience:`; it is only told from an upstream where exactly one, with one exact origin, lists this credential

    error: a listener without an identity would let everybody out
     --> exeat.yaml:5:69
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [] }
      |                                                                     ^
      |
      = help: name at least one of `identities`

    error[unknown-name]: there is no identity `pd`
     --> exeat.yaml:5:70
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pd] }
      |                                                                      ^^
      |
      = help: did you mean `pod`?

    error: identity `local` is listed twice
     --> exeat.yaml:6:96
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local, local] }
      |                                                                                                ^^^^^
      |
      = help: keep one of the two

    error: identity `pod` makes every connection one workload, so no other can be asked beside it
     --> exeat.yaml:5:70
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod, local] }
      |                                                                      ^^^
      |
      = help: let it stand alone, or make two listeners of this one

    error: identity `local` cannot prove a caller from another host
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "10.0.0.1:15001", capture: forward, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^
      |
      = help: listen on 127.0.0.1, [::1] or a unix socket
    "#);
}

#[test]
fn the_identities() {
    insta::assert_snapshot!(mistakes(&[
        ("pod: { fixed: { id: \"spiffe://t.example/ns/a/sa/b\" } }", "pod: {}"),
        ("pod: { fixed:", "pod: { unix_peer: { workloads: [{ uid: 1, id: \"spiffe://t.example/a\" }] }, fixed:"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "spiffe: {}"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "spiffe: { socket: /run/agent.sock }"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "spiffe: { socket: \"tcp://agent.example:8081\" }"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "spiffe: { socket: \"unix:///s\", hint: \"\" }"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "client_cert: { trust: { file: empty.pem } }"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "client_cert: { trust: { file: broken.pem } }"),
        ("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", "password: hunter2"),
        ("spiffe://t.example/ns/a/sa/b", "t.example/ns/a/sa/b"),
        ("spiffe://t.example/ns/a/sa/b", "spiffe://t.example/ns/a/sa/b/"),
        ("spiffe://t.example/ns/a/sa/b", "spiffe://other.example/ns/a/sa/b"),
        ("workloads: [{ uid: 1001, id: \"spiffe://t.example/ns/a/sa/c\" }]", "workloads: []"),
        ("workloads: [", "workloads: [{ uid: 1001, id: \"spiffe://t.example/x\" }, "),
    ]), @r#"
    error: identity `pod` names no kind
     --> exeat.yaml:8:3
      |
    8 |   pod: {}
      |   ^^^
      |
      = help: write `fixed: { id }`, `unix_peer: { workloads }`, `kubernetes: { issuer, audience }`, `client_cert: { trust: { workload_api } }`, `spiffe: { socket }` or `broker_api: { socket, workload_api }`

    error: identity `pod` names two kinds
     --> exeat.yaml:8:3
      |
    8 |   pod: { unix_peer: { workloads: [{ uid: 1, id: "spiffe://t.example/a" }] }, fixed: { id: "spiffe://t.example/ns/a/sa/b" } }
      |   ^^^
      |
      = help: make two identities of it

    error: the identity does not say where the Workload API is
     --> exeat.yaml:8:18
      |
    8 |   pod: { spiffe: {} }
      |                  ^
      |
      = help: write `socket: "unix:///PATH"`, or set SPIFFE_ENDPOINT_SOCKET for exeat

    error: `/run/agent.sock` is no Workload API endpoint: it begins with neither `unix:` nor `tcp:`
     --> exeat.yaml:8:28
      |
    8 |   pod: { spiffe: { socket: /run/agent.sock } }
      |                            ^^^^^^^^^^^^^^^
      |
      = help: unix:///run/spire/agent/public/api.sock, or tcp://127.0.0.1:8081

    error: `tcp://agent.example:8081` is no Workload API endpoint: a tcp endpoint is an IP address and a port and nothing else
     --> exeat.yaml:8:28
      |
    8 |   pod: { spiffe: { socket: "tcp://agent.example:8081" } }
      |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: unix:///run/spire/agent/public/api.sock, or tcp://127.0.0.1:8081

    error: a hint has 1 to 1024 bytes
     --> exeat.yaml:8:47
      |
    8 |   pod: { spiffe: { socket: "unix:///s", hint: "" } }
      |                                               ^^
      |
      = help: leave it out for the first identity that the server gives

    error: the bundle of trust domain `t.example` cannot be used: there is no certificate in it; a PEM file of roots has `-----BEGIN CERTIFICATE-----` blocks
     --> exeat.yaml:8:40
      |
    8 |   pod: { client_cert: { trust: { file: empty.pem } } }
      |                                        ^^^^^^^^^
      |
      = help: `spire-server bundle show` prints it in PEM, with `-format spiffe` in JSON

    error: the bundle of trust domain `t.example` cannot be used: certificate number 1 cannot be read: base64 decode error: InvalidCharacter(33)
     --> exeat.yaml:8:40
      |
    8 |   pod: { client_cert: { trust: { file: broken.pem } } }
      |                                        ^^^^^^^^^^
      |
      = help: `spire-server bundle show` prints it in PEM, with `-format spiffe` in JSON

    error[unknown-field]: unknown field `password`
     --> exeat.yaml:8:8
      |
    8 |   pod: [hidden]
      |        ^^^^^^^^
      |
      = help: the fields here are: fixed, unix_peer, kubernetes, client_cert, spiffe, broker_api

    error: `t.example/ns/a/sa/b` is not a SPIFFE ID: a SPIFFE ID begins with `spiffe://`
     --> exeat.yaml:8:23
      |
    8 |   pod: { fixed: { id: "t.example/ns/a/sa/b" } }
      |                       ^^^^^^^^^^^^^^^^^^^^^
      |
      = help: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT

    error: `spiffe://t.example/ns/a/sa/b/` is not a SPIFFE ID: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
     --> exeat.yaml:8:23
      |
    8 |   pod: { fixed: { id: "spiffe://t.example/ns/a/sa/b/" } }
      |                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT

    error: `spiffe://other.example/ns/a/sa/b` is not in the trust domain `t.example`
     --> exeat.yaml:8:23
      |
    8 |   pod: { fixed: { id: "spiffe://other.example/ns/a/sa/b" } }
      |                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: exeat speaks for workloads of its own trust domain only

    error: an identity without workloads rejects everybody
     --> exeat.yaml:9:36
      |
    9 |   local: { unix_peer: { workloads: [] } }
      |                                    ^
      |
      = help: list at least one `{ uid, id }`

    error: uid 1001 is listed twice
     --> exeat.yaml:9:87
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1001, id: "spiffe://t.example/x" }, { uid: 1001, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                                                                       ^^^^
      |
      = help: a uid is one workload
    "#);
}

#[test]
fn the_processes() {
    let one = "workloads: [{ uid: 1001, id: \"spiffe://t.example/ns/a/sa/c\" }]";
    let with = |fields: &str| format!("workloads: [{{ {fields}, id: \"spiffe://t.example/ns/a/sa/c\" }}]");
    let (program, digest, both) = (
        with("executable: /usr/bin/app"),
        with("uid: 1, sha256: abc"),
        with("uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab"),
    );
    let later = with("uid: 1, executable: /a, id: \"spiffe://t.example/x\" }, { uid: 1, executable: /a, cgroup: /b");
    let socket = "unix:///run/l.sock";
    let process = with("uid: 1, executable: /usr/bin/app");
    insta::assert_snapshot!(mistakes(&[(one, &program), (one, &digest), (one, &both), (one, &later)]), @r#"
    error: nothing says whose process this workload is
     --> exeat.yaml:9:69
      |
    9 |   local: { unix_peer: { workloads: [{ executable: /usr/bin/app, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: add `uid`, `cgroup`, `pod_uid` or `container`: a program alone can be run by anybody

    error: a digest needs the program that it is of
     --> exeat.yaml:9:55
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, sha256: abc, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                                       ^^^
      |
      = help: add `executable: /path`

    error: `bin/app` is not an absolute path
     --> exeat.yaml:9:59
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab, i...
      |                                                           ^^^^^^^
      |
      = help: write /usr/bin/name

    error: `abc` is not a SHA-256 digest
     --> exeat.yaml:9:76
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab, i...
      |                                                                            ^^^
      |
      = help: 64 hexadecimal digits, as `sha256sum FILE` prints them

    error: `/` is not a control group
     --> exeat.yaml:9:89
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab, i...
      |                                                                                         ^
      |
      = help: an absolute path that is not the root, as in /proc/PID/cgroup: /system.slice/app.service

    error: `web-0` is not the uid of a pod
     --> exeat.yaml:9:101
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab, i...
      |                                                                                                     ^^^^^
      |
      = help: `kubectl get pod NAME -o jsonpath={.metadata.uid}` prints it

    error: `0123456789ab` is not the full id of a container
     --> exeat.yaml:9:119
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: bin/app, sha256: abc, cgroup: /, pod_uid: web-0, container: 0123456789ab, i...
      |                                                                                                                       ^^^^^^^^^^^^
      |
      = help: 64 hexadecimal digits; a name or a short id is not unique

    error: this workload is never found: one before it asks for less
     --> exeat.yaml:9:100
      |
    9 |   local: { unix_peer: { workloads: [{ uid: 1, executable: /a, id: "spiffe://t.example/x" }, { uid: 1, executable: /a, cgroup: /b, id:...
      |                                                                                                    ^
      |
      = help: write first those that ask for more
    "#);
    let some = with("uid: 1, executable: /usr/bin/app, id: \"spiffe://t.example/x\" }, { uid: 2");
    let on_tcp = |workloads: &str| RIGHT.replace(socket, "127.0.0.1:15002").replace(one, workloads);
    let desk = Desk::new();
    insta::assert_snapshot!(desk.errors(on_tcp(&process)), @r#"
    error: no workload of identity `local` can be proven here: TCP tells no process
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "127.0.0.1:15002", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: listen on unix:///run/exeat/name.sock, or write workloads with `uid` alone
    "#);
    let warnings = desk.load(on_tcp(&some)).map_or_else(|errors| panic!("{}", desk.shown(&errors)), |loaded| loaded.warnings);
    insta::assert_snapshot!(desk.shown(&warnings), @r#"
    warning[uid-only]: identity `local` on TCP proves the uid only, not the process
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "127.0.0.1:15002", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: a unix socket also tells the process; every program of that uid is this workload

    warning[needs-unix-socket]: some workloads of identity `local` can never be proven here: TCP tells no process
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "127.0.0.1:15002", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: listen on unix:///run/exeat/name.sock, or write them with `uid` alone
    "#);
}

#[test]
fn the_clusters() {
    let one = "fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }";
    let cluster = |fields: &str| format!("kubernetes: {{ {fields} }}");
    let good = "issuer: \"https://kubernetes.default.svc\", audience: exeat";
    let cases: Vec<String> = [
        "issuer: kubernetes, audience: exeat",
        "issuer: \"http://cluster.example\", audience: \"\"",
        "issuer: \"https://kubernetes.default.svc\", audience: \"https://kubernetes.default.svc\"",
        &format!("{good}, keys: {{ file: missing.json }}"),
        &format!("{good}, keys: {{ file: empty.pem, url: \"https://a.example\" }}"),
        &format!("{good}, keys: {{ file: empty.pem }}"),
        &format!("{good}, keys: {{ url: \"https://user@a.example\", roots: broken.pem }}"),
    ]
    .into_iter()
    .map(cluster)
    .collect();
    let cases: Vec<(&str, &str)> = cases.iter().map(|case| (one, case.as_str())).collect();
    insta::assert_snapshot!(mistakes(&cases), @r#"
    error: `kubernetes` is not an issuer
     --> exeat.yaml:8:32
      |
    8 |   pod: { kubernetes: { issuer: kubernetes, audience: exeat } }
      |                                ^^^^^^^^^^
      |
      = help: write https://HOST[:PORT][/PATH]

    error: `http://cluster.example` is not an issuer
     --> exeat.yaml:8:32
      |
    8 |   pod: { kubernetes: { issuer: "http://cluster.example", audience: "" } }
      |                                ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write https://HOST[:PORT][/PATH]

    error: an empty audience is everybody's
     --> exeat.yaml:8:68
      |
    8 |   pod: { kubernetes: { issuer: "http://cluster.example", audience: "" } }
      |                                                                    ^^
      |
      = help: write the `audience` of the pods' serviceAccountToken projection

    error: tokens for the API server are not taken: whoever holds one could act on the cluster
     --> exeat.yaml:8:76
      |
    8 |   pod: { kubernetes: { issuer: "https://kubernetes.default.svc", audience: "https://kubernetes.default.svc" } }
      |                                                                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: give the projection an audience of exeat's own

    error: the JWK Set cannot be used: `missing.json`: No such file or directory (os error 2)
     --> exeat.yaml:8:97
      |
    8 |   pod: { kubernetes: { issuer: "https://kubernetes.default.svc", audience: exeat, keys: { file: missing.json } } }
      |                                                                                                 ^^^^^^^^^^^^
      |
      = help: `kubectl get --raw /openid/v1/jwks` prints it

    error: keys come from a file or from a URL, not from both
     --> exeat.yaml:8:97
      |
    8 |   pod: { kubernetes: { issuer: "https://kubernetes.default.svc", audience: exeat, keys: { file: empty.pem, url: "https://a.example" }...
      |                                                                                                 ^^^^^^^^^
      |
      = help: take one away

    error: the JWK Set cannot be used: the JWK Set is not JSON
     --> exeat.yaml:8:97
      |
    8 |   pod: { kubernetes: { issuer: "https://kubernetes.default.svc", audience: exeat, keys: { file: empty.pem } } }
      |                                                                                                 ^^^^^^^^^
      |
      = help: `kubectl get --raw /openid/v1/jwks` prints it

    error: `https://user@a.example` is not the address of a JWK Set
     --> exeat.yaml:8:96
      |
    8 |   pod: { kubernetes: { issuer: "https://kubernetes.default.svc", audience: exeat, keys: { url: "https://user@a.example", roots: broke...
      |                                                                                                ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write https://HOST[:PORT][/PATH]

    error: the roots cannot be used: certificate number 1 cannot be read: base64 decode error: InvalidCharacter(33)
     --> exeat.yaml:8:129
      |
    8 | ...ience: exeat, keys: { url: "https://user@a.example", roots: broken.pem } } }
      |                                                                ^^^^^^^^^^
      |
      = help: in a pod: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    "#);
    let presented = cluster(good);
    let mounted = cluster(&format!("{good}, token_file: /var/run/secrets/exeat/token"));
    let desk = Desk::new();
    let right = RIGHT.replace(one, &presented);
    insta::assert_snapshot!(desk.errors(right.replace("capture: forward", "capture: host")), @r#"
    error: identity `pod` takes its proof in Proxy-Authorization, which no client sends here
     --> exeat.yaml:5:67
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: host, identity: [pod] }
      |                                                                   ^^^
      |
      = help: write `capture: forward`, or give the identity the pod's own `token_file`
    "#);
    insta::assert_snapshot!(desk.errors(right.replace("identity: [pod]", "identity: [pod, local]")), @r#"
    error: identity `local` is never asked: a caller without a proof for `pod` is refused
     --> exeat.yaml:5:75
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod, local] }
      |                                                                           ^^^^^
      |
      = help: list it first, or make two listeners of this one
    "#);
    insta::assert_snapshot!(desk.errors(RIGHT.replace(one, &mounted).replace("identity: [pod]", "identity: [pod, local]")), @r#"
    error: identity `pod` makes every connection one workload, so no other can be asked beside it
     --> exeat.yaml:5:70
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod, local] }
      |                                                                      ^^^
      |
      = help: let it stand alone, or make two listeners of this one
    "#);
    assert!(desk.load(right.replace("identity: [pod]", "identity: [local, pod]")).is_ok());
    assert!(desk.load(RIGHT.replace(one, &mounted).replace("capture: forward", "capture: host")).is_ok());
}

#[test]
fn the_doors() {
    let desk = Desk::new();
    let made = rcgen::generate_simple_self_signed(["exeat.t.example".to_owned()]).unwrap();
    std::fs::write(desk.dir.path().join("door.pem"), made.cert.pem()).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["t.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(desk.dir.path().join("bundle.pem"), authority.pem()).unwrap();
    let by_certificate = |trust: &str| {
        RIGHT.replace("fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }", &format!("client_cert: {{ trust: {{ file: {trust} }} }}"))
    };
    let door = |text: &str, tls: &str| text.replace("127.0.0.1:15001\",", &format!("127.0.0.1:15001\", tls: {{ {tls} }},"));
    let good = "certificate: door.pem, key: door.key";
    let wrong = [
        by_certificate("bundle.pem"),
        door(&by_certificate("door.pem"), good),
        door(&by_certificate("bundle.pem"), "certificate: broken.pem, key: door.key"),
        door(&by_certificate("bundle.pem"), "certificate: door.pem"),
        door(&by_certificate("bundle.pem"), good).replace("identity: [pod]", "identity: [pod, local]"),
        door(&by_certificate("bundle.pem"), "certificate: door.pem, svid: pod"),
        door(&by_certificate("bundle.pem"), "svid: pod"),
        door(&by_certificate("bundle.pem"), "svid: pot"),
        by_certificate("bundle.pem, workload_api: { socket: \"unix:///run/agent.sock\" }"),
        by_certificate("bundle.pem").replace("file: bundle.pem", "workload_api: { socket: \"/run/agent.sock\" }"),
        by_certificate("bundle.pem").replace("file: bundle.pem", "workload_api: {}"),
        by_certificate("bundle.pem").replace("file: bundle.pem", ""),
    ];
    let told: Vec<String> = wrong.iter().map(|text| desk.errors(text)).collect();
    insta::assert_snapshot!(told.join("\n\n"), @r#"
    error: identity `pod` needs the caller's certificate, and listener `egress` is plaintext
     --> exeat.yaml:5:70
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod] }
      |                                                                      ^^^
      |
      = help: add `tls: { svid: IDENTITY }` or `tls: { certificate, key }` to the listener

    error: the bundle of trust domain `t.example` cannot be used: certificate 1 of the bundle is no authority: its basic constraints do not say cA
     --> exeat.yaml:8:40
      |
    8 |   pod: { client_cert: { trust: { file: door.pem } } }
      |                                        ^^^^^^^^
      |
      = help: `spire-server bundle show` prints it in PEM, with `-format spiffe` in JSON

    error: the listener's certificate cannot be used: certificate number 1 cannot be read: base64 decode error: InvalidCharacter(33)
     --> exeat.yaml:5:61
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { certificate: broken.pem, key: door.key }, capture: forward, identity: [pod] }
      |                                                             ^^^^^^^^^^
      |
      = help: name a PEM file with the certificate first, then those that signed it

    error: listener `egress` shows one certificate that has one key
     --> exeat.yaml:5:46
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { certificate: door.pem }, capture: forward, identity: [pod] }
      |                                              ^
      |
      = help: write `svid: IDENTITY`, or `certificate: FILE` with `key: FILE`

    error: identity `local` is never asked: a caller without a proof for `pod` is refused
     --> exeat.yaml:5:122
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { certificate: door.pem, key: door.key }, capture: forward, identity: [pod, local] }
      |                                                                                                                          ^^^^^
      |
      = help: list it first, or make two listeners of this one

    error: listener `egress` shows one certificate that has one key
     --> exeat.yaml:5:46
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { certificate: door.pem, svid: pod }, capture: forward, identity: [pod] }
      |                                              ^
      |
      = help: write `svid: IDENTITY`, or `certificate: FILE` with `key: FILE`

    error: identity `pod` has no SVID of exeat's own: it does not come from the Workload API
     --> exeat.yaml:5:54
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { svid: pod }, capture: forward, identity: [pod] }
      |                                                      ^^^
      |
      = help: name a `spiffe` identity, or a `client_cert` one with `trust: { workload_api }`

    error[unknown-name]: there is no identity `pot`
     --> exeat.yaml:5:54
      |
    5 |   egress: { address: "127.0.0.1:15001", tls: { svid: pot }, capture: forward, identity: [pod] }
      |                                                      ^^^
      |
      = help: did you mean `pod`?

    error: the bundles come from a file or from the Workload API: from one of the two
     --> exeat.yaml:8:32
      |
    8 |   pod: { client_cert: { trust: { file: bundle.pem, workload_api: { socket: "unix:///run/agent.sock" } } } }
      |                                ^
      |
      = help: write `workload_api: { socket }`, or `file: PATH` for a bundle that is kept by hand

    error: `/run/agent.sock` is no Workload API endpoint: it begins with neither `unix:` nor `tcp:`
     --> exeat.yaml:8:58
      |
    8 |   pod: { client_cert: { trust: { workload_api: { socket: "/run/agent.sock" } } } }
      |                                                          ^^^^^^^^^^^^^^^^^
      |
      = help: unix:///run/spire/agent/public/api.sock, or tcp://127.0.0.1:8081

    error: the identity does not say where the Workload API is
     --> exeat.yaml:8:48
      |
    8 |   pod: { client_cert: { trust: { workload_api: {} } } }
      |                                                ^
      |
      = help: write `socket: "unix:///PATH"`, or set SPIFFE_ENDPOINT_SOCKET for exeat

    error: the bundles come from a file or from the Workload API: from one of the two
     --> exeat.yaml:8:32
      |
    8 |   pod: { client_cert: { trust: {  } } }
      |                                ^
      |
      = help: write `workload_api: { socket }`, or `file: PATH` for a bundle that is kept by hand
    "#);
    // Anywhere, since it is no plaintext; and the key is not needed to check.
    let right = door(&by_certificate("bundle.pem"), good).replace("127.0.0.1:15001", "0.0.0.0:15001");
    let warnings = desk.load(right).map_or_else(|errors| panic!("{}", desk.shown(&errors)), |loaded| loaded.warnings);
    assert!(!desk.shown(&warnings).contains("not-loopback"));
    let followed = by_certificate("bundle.pem").replace("file: bundle.pem", "workload_api: { socket: \"unix:///run/agent.sock\" }");
    let warnings =
        desk.load(door(&followed, "svid: pod")).map_or_else(|errors| panic!("{}", desk.shown(&errors)), |loaded| loaded.warnings);
    assert!(!desk.shown(&warnings).contains("no listener accepts identity `pod`"));
}

#[test]
fn the_broker_api() {
    let one = "fixed: { id: \"spiffe://t.example/ns/a/sa/b\" }";
    let two = "unix_peer: { workloads: [{ uid: 1001, id: \"spiffe://t.example/ns/a/sa/c\" }] }";
    let own = "workload_api: { socket: \"unix:///run/agent/api.sock\" }";
    let broker = |more: &str| format!("broker_api: {{ {own}, {more} }}");
    insta::assert_snapshot!(mistakes(&[
        (one, &broker("socket: \"unix:///run/broker/api.sock\"")),
        (two, "broker_api: {}"),
        (two, "broker_api: { workload_api: {}, socket: \"unix:///run/broker/api.sock\" }"),
        (two, &format!("broker_api: {{ {own} }}")),
        (two, &broker("socket: \"tcp://127.0.0.1:8443\"")),
        (two, &broker("socket: /run/broker/api.sock")),
        (two, &broker("socket: \"unix:///run/agent/api.sock\"")),
        (two, &broker("socket: \"unix:///run/broker/api.sock\", agent: \"spiffe://t.example/**\"")),
        (two, &broker("socket: \"unix:///run/broker/api.sock\", agent: any")),
        (two, &broker("socket: \"unix:///run/broker/api.sock\", hint: \"\"")),
        (two, &broker("socket: \"unix:///run/broker/api.sock\", pid: 1")),
    ]), @r#"
    error: identity `pod` can prove nobody here: TCP tells no process
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: listen on unix:///run/exeat/name.sock

    error[missing-field]: field `workload_api` is missing
     --> exeat.yaml:9:24
      |
    9 |   local: { broker_api: {} }
      |                        ^

    error: the identity does not say where the Workload API is
     --> exeat.yaml:9:40
      |
    9 |   local: { broker_api: { workload_api: {}, socket: "unix:///run/broker/api.sock" } }
      |                                        ^
      |
      = help: write `socket: "unix:///PATH"`, or set SPIFFE_ENDPOINT_SOCKET for exeat

    error: the identity does not say where the Broker API is
     --> exeat.yaml:9:24
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" } } }
      |                        ^
      |
      = help: write `socket: "unix:///PATH"`, or set SPIFFE_BROKER_SOCKET for exeat

    error: the number of a process means something on its own host alone, so the Broker API is asked over a unix socket
     --> exeat.yaml:9:90
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: "tcp://127.0.0.1:8443" } }
      |                                                                                          ^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: unix:///run/spire/broker/api.sock

    error: `/run/broker/api.sock` is no Broker API endpoint: it begins with neither `unix:` nor `tcp:`
     --> exeat.yaml:9:90
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: /run/broker/api.sock } }
      |                                                                                          ^^^^^^^^^^^^^^^^^^^^
      |
      = help: unix:///run/spire/broker/api.sock

    error: the Broker API and the Workload API have a socket each
     --> exeat.yaml:9:90
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: "unix:///run/agent/api.sock" } }
      |                                                                                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: name the agent's `experimental { broker { socket_path } }`

    error: `spiffe://t.example/**` names no agent: the path is missing: a workload's SPIFFE ID names more than its trust domain
     --> exeat.yaml:9:128
      |
    9 | ...ck" }, socket: "unix:///run/broker/api.sock", agent: "spiffe://t.example/**" } }
      |                                                         ^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: spiffe://TRUST_DOMAIN/spire/agent/** for any agent of SPIRE's, or one SPIFFE ID

    error: `any` names no agent: a SPIFFE ID begins with `spiffe://`
     --> exeat.yaml:9:128
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: "unix:///run/broker/api.sock", agent: any } }
      |                                                                                                                                ^^^
      |
      = help: spiffe://TRUST_DOMAIN/spire/agent/** for any agent of SPIRE's, or one SPIFFE ID

    error: a hint has 1 to 1024 bytes
     --> exeat.yaml:9:127
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: "unix:///run/broker/api.sock", hint: "" } }
      |                                                                                                                               ^^
      |
      = help: leave it out for the first identity that the agent gives

    error[unknown-field]: unknown field `pid`
     --> exeat.yaml:9:121
      |
    9 |   local: { broker_api: { workload_api: { socket: "unix:///run/agent/api.sock" }, socket: "unix:///run/broker/api.sock", pid: 1 } }
      |                                                                                                                         ^^^
      |
      = help: the fields here are: socket, workload_api, agent, hint
    "#);
}

#[test]
fn the_upstreams() {
    let origins = "[\"https://ledger.example:8443\"]";
    insta::assert_snapshot!(mistakes(&[
        ("owner: team@t.example", "owner: \"\""),
        (origins, "[]"),
        (origins, "[ledger.example]"),
        (origins, "[\"ftp://ledger.example\"]"),
        (origins, "[\"https://ledger.example/v1\"]"),
        (origins, "[\"https://user:pw@ledger.example\"]"),
        (origins, "[\"https://*.example\"]"),
        (origins, "[\"https://a.*.example\"]"),
        (origins, "[\"https://ledger.example:99999\"]"),
        (origins, "[\"https://ledger.example\", \"https://LEDGER.example:443\"]"),
        ("credentials:\n", "  other: { owner: me, origins: [\"https://ledger.example:8443\"] }\ncredentials:\n"),
        ("credentials: [jwt]", "credentials: [jwt]\n    reach: { networks: [] }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    reach: { networks: [10.0.0.1/8, internal] }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { roots: { file: absent.pem } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { roots: { file: broken.pem } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { roots: { file: empty.pem } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { roots: none }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { verify: false }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { server_name: \"a b\" }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { client_certificate: svid }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { client_certificate: mine.pem }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    tls: { spiffe_id: ledger.example, server_name: a.example }"),
        ("credentials: [jwt]", "credentials: [jtw, vault-thing]"),
        ("credentials: [jwt]", "credentials: [jwt, jwt]"),
        ("credentials: [jwt]", "credentials: [jwt]\n    stage: { observe: { until: soon } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    stage: { observe: { until: 2026-12-31 } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    stage: { observe: { until: 2026-12-01, enforce_percent: 100 } }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    stage: shadow"),
        ("credentials: [jwt]", "credentials: [jwt]\n    intercept: false"),
        ("credentials: [jwt]", "credentials: [jwt]\n    strip: { keep: [x-a, \"query:\"], also: [X-A, \"a b\"] }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    response_remove: [\"a b\"]"),
        ("credentials: [jwt]", "credentials: [jwt]\n    deadlines: { connect: 2min, tls: 1h }"),
        ("credentials: [jwt]", "credentials: [jwt]\n    body_limit: 2MiB"),
        ("credentials: [jwt]", "credentials: [jwt]\n    protocol: h3"),
    ]), @r#"
    error: upstream `ledger` has an empty owner
      --> exeat.yaml:12:12
       |
    12 |     owner: ""
       |            ^^
       |
       = help: name who answers for it: team@example.com

    error: upstream `ledger` has no origin
      --> exeat.yaml:13:14
       |
    13 |     origins: []
       |              ^
       |
       = help: write where it is: ["https://HOST"]

    error: `ledger.example` has no scheme
      --> exeat.yaml:13:15
       |
    13 |     origins: [ledger.example]
       |               ^^^^^^^^^^^^^^
       |
       = help: write https://HOST or https://HOST:PORT; https://*.SUFFIX stands for one more label

    error: `ftp` is not a scheme that exeat forwards
      --> exeat.yaml:13:15
       |
    13 |     origins: ["ftp://ledger.example"]
       |               ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write https://, or http:// for declared plaintext

    error: `https://ledger.example/v1` has a path or query; an origin is scheme, host and port
      --> exeat.yaml:13:15
       |
    13 |     origins: ["https://ledger.example/v1"]
       |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: paths belong into a policy's rules

    error: this origin holds user information
      --> exeat.yaml:13:15
       |
    13 |     origins: [[hidden]
       |               ^
       |
       = help: an origin never holds credentials; remove what stands before `@`

    error: `https://*.example` would cover a whole top-level domain
      --> exeat.yaml:13:15
       |
    13 |     origins: ["https://*.example"]
       |               ^^^^^^^^^^^^^^^^^^^
       |
       = help: write at least two labels after `*.`

    error: `https://a.*.example`: `*` stands for the whole first label only
      --> exeat.yaml:13:15
       |
    13 |     origins: ["https://a.*.example"]
       |               ^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write https://HOST or https://HOST:PORT; https://*.SUFFIX stands for one more label

    error: `https://ledger.example:99999` is not an origin: the port is not a number from 1 to 65535
      --> exeat.yaml:13:15
       |
    13 |     origins: ["https://ledger.example:99999"]
       |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write https://HOST or https://HOST:PORT; https://*.SUFFIX stands for one more label

    error: `https://LEDGER.example:443` is listed twice
      --> exeat.yaml:13:41
       |
    13 |     origins: ["https://ledger.example", "https://LEDGER.example:443"]
       |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: keep one of the two

    error: `https://ledger.example:8443` already belongs to upstream `ledger`
      --> exeat.yaml:15:33
       |
    15 |   other: { owner: me, origins: ["https://ledger.example:8443"] }
       |                                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: an origin is one upstream: merge the two, or use other ports

    error: an empty list of networks reaches nothing
      --> exeat.yaml:15:24
       |
    15 |     reach: { networks: [] }
       |                        ^
       |
       = help: remove `reach` for public addresses, or list networks

    error: `10.0.0.1/8` has bits behind its prefix
      --> exeat.yaml:15:25
       |
    15 |     reach: { networks: [10.0.0.1/8, internal] }
       |                         ^^^^^^^^^^
       |
       = help: did you mean `10.0.0.0/8`?

    error: `internal` is not a network
      --> exeat.yaml:15:37
       |
    15 |     reach: { networks: [10.0.0.1/8, internal] }
       |                                     ^^^^^^^^
       |
       = help: CIDR form: 10.0.0.0/8, 192.0.2.7/32, fd00::/8

    error: the certificates cannot be read: `absent.pem`: No such file or directory (os error 2)
      --> exeat.yaml:15:27
       |
    15 |     tls: { roots: { file: absent.pem } }
       |                           ^^^^^^^^^^
       |
       = help: paths are relative to this file

    error: `broken.pem` is not PEM: a block in it is broken
      --> exeat.yaml:15:27
       |
    15 |     tls: { roots: { file: broken.pem } }
       |                           ^^^^^^^^^^

    error: `empty.pem` holds no certificate
      --> exeat.yaml:15:27
       |
    15 |     tls: { roots: { file: empty.pem } }
       |                           ^^^^^^^^^
       |
       = help: PEM blocks of CERTIFICATE, one after the other

    error[unknown-word]: unknown word `none`
      --> exeat.yaml:15:19
       |
    15 |     tls: { roots: none }
       |                   ^^^^
       |
       = help: the words here are: system, file

    error[unknown-field]: unknown field `verify`
      --> exeat.yaml:15:12
       |
    15 |     tls: { verify: false }
       |            ^^^^^^
       |
       = help: the fields here are: roots, server_name, spiffe_id, client_certificate

    error: `a b` is not a name to verify: the host is neither a DNS name nor an IP address in its usual form
      --> exeat.yaml:15:25
       |
    15 |     tls: { server_name: "a b" }
       |                         ^^^^^

    error: upstream `ledger` takes the workload's own SVID, and identity `local` brings none
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                                                                      ^^^^^^
      |
      = help: accept `spiffe` or `broker_api` identities alone on this listener, or take `tls` of the upstream away

    error: upstream `ledger` needs the workload's own SVID, and no identity brings one
      --> exeat.yaml:15:32
       |
    15 |     tls: { client_certificate: svid }
       |                                ^^^^
       |
       = help: add `identities: { pod: { spiffe: {} } }` and accept it on a listener, or `broker_api` for one exeat per host

    error[unknown-word]: unknown word `mine.pem`
      --> exeat.yaml:15:32
       |
    15 |     tls: { client_certificate: mine.pem }
       |                                ^^^^^^^^
       |
       = help: the words here are: svid

    error: upstream `ledger` takes the workload's own SVID, and identity `local` brings none
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: ledger, identity: [local] }
      |                                                                      ^^^^^^
      |
      = help: accept `spiffe` or `broker_api` identities alone on this listener, or take `tls` of the upstream away

    error: `ledger.example` is not a SPIFFE ID: a SPIFFE ID begins with `spiffe://`
      --> exeat.yaml:15:23
       |
    15 |     tls: { spiffe_id: ledger.example, server_name: a.example }
       |                       ^^^^^^^^^^^^^^
       |
       = help: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT

    error: upstream `ledger` needs the workload's own SVID, and no identity brings one
      --> exeat.yaml:15:23
       |
    15 |     tls: { spiffe_id: ledger.example, server_name: a.example }
       |                       ^^^^^^^^^^^^^^
       |
       = help: add `identities: { pod: { spiffe: {} } }` and accept it on a listener, or `broker_api` for one exeat per host

    error: `spiffe_id` stands beside `roots` or `server_name`
      --> exeat.yaml:15:23
       |
    15 |     tls: { spiffe_id: ledger.example, server_name: a.example }
       |                       ^^^^^^^^^^^^^^
       |
       = help: a SPIFFE ID is verified by the bundle of its trust domain, and no name is: keep one of the two

    error[unknown-name]: there is no credential `jtw`
      --> exeat.yaml:14:19
       |
    14 |     credentials: [jtw, vault-thing]
       |                   ^^^
       |
       = help: did you mean `jwt`?

    error[unknown-name]: there is no credential `vault-thing`
      --> exeat.yaml:14:24
       |
    14 |     credentials: [jtw, vault-thing]
       |                        ^^^^^^^^^^^
       |
       = help: known: jwt

    error: credential `jwt` is listed twice
      --> exeat.yaml:14:24
       |
    14 |     credentials: [jwt, jwt]
       |                        ^^^
       |
       = help: keep one of the two

    error: `soon` is not a point in time
      --> exeat.yaml:15:32
       |
    15 |     stage: { observe: { until: soon } }
       |                                ^^^^
       |
       = help: write a date (2026-12-20) or an RFC 3339 time with its offset (2026-12-20T18:00:00Z)

    error: an observation ends within 30 days
      --> exeat.yaml:15:32
       |
    15 |     stage: { observe: { until: 2026-12-31 } }
       |                                ^^^^^^^^^^
       |
       = help: the latest end is 2026-12-21; move it on while you still learn

    error: `enforce_percent` is a share from 1 to 99
      --> exeat.yaml:15:61
       |
    15 |     stage: { observe: { until: 2026-12-01, enforce_percent: 100 } }
       |                                                             ^^^
       |
       = help: write `stage: enforce` for all of it, and leave the field out for none

    error[unknown-word]: unknown word `shadow`
      --> exeat.yaml:15:12
       |
    15 |     stage: shadow
       |            ^^^^^^
       |
       = help: the words here are: enforce, observe

    error: upstream `ledger` is not intercepted: no credential can be put inside a tunnel
      --> exeat.yaml:14:19
       |
    14 |     credentials: [jwt]
       |                   ^^^
       |
       = help: remove the credentials, or `intercept: false`

    error: `query:` names no place in a request
      --> exeat.yaml:15:26
       |
    15 |     strip: { keep: [x-a, "query:"], also: [X-A, "a b"] }
       |                          ^^^^^^^^
       |
       = help: write a header name, query:NAME or cookie:NAME

    error: `x-a` is both kept and removed
      --> exeat.yaml:15:44
       |
    15 |     strip: { keep: [x-a, "query:"], also: [X-A, "a b"] }
       |                                            ^^^
       |
       = help: decide for one of the two

    error: `a b` names no place in a request
      --> exeat.yaml:15:49
       |
    15 |     strip: { keep: [x-a, "query:"], also: [X-A, "a b"] }
       |                                                 ^^^^^
       |
       = help: write a header name, query:NAME or cookie:NAME

    error: `a b` is not a header name
      --> exeat.yaml:15:23
       |
    15 |     response_remove: ["a b"]
       |                       ^^^^^

    error: `2min` is not a length of time
      --> exeat.yaml:15:27
       |
    15 |     deadlines: { connect: 2min, tls: 1h }
       |                           ^^^^
       |
       = help: write a whole number and a unit: 500ms, 10s, 5m, 1h, 30d

    error: `1h` is out of bounds: at least 1ms, at most 60s
      --> exeat.yaml:15:38
       |
    15 |     deadlines: { connect: 2min, tls: 1h }
       |                                      ^^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error: `2MiB` is out of bounds: at least 1, at most 1048576 bytes
      --> exeat.yaml:15:17
       |
    15 |     body_limit: 2MiB
       |                 ^^^^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error[unknown-word]: unknown word `h3`
      --> exeat.yaml:15:15
       |
    15 |     protocol: h3
       |               ^^
       |
       = help: did you mean `h1`?
    "#);
}

#[test]
fn the_credentials() {
    let jwt = "local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] }";
    insta::assert_snapshot!(mistakes(&[
        (jwt, "inject: bearer"),
        (jwt, "jwt_svid: { audience: \"https://ledger.example\" }"),
        (jwt, "jwt_svid: { audience: \"\", ttl: 60s }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, secret: { value: \"${env:X}\" }, inject: bearer"),
        (jwt, "local_jwt: { issuer: exeat.t.example }"),
        (jwt, "local_jwt: { issuer: \"http://exeat.t.example\" }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\", audience: \"\" }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\", scopes: [\"read write\"] }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\", ttl: 1h }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\", alg: HS256 }"),
        ("[\"https://ledger.example:8443\"]", "[\"https://ledger.example\"]\n    credentials: [jwt]\n  other:\n    owner: me\n    origins: [\"https://o.example\"]"),
        (jwt, "secret: { value: \"${env:X}\" }"),
        (jwt, "secret: { value: \"${vault:X}\" }, inject: bearer"),
        (jwt, "secret: { value: \"${env:A B}\" }, inject: bearer"),
        (jwt, "secret: { value: sk-live-4242 }, inject: bearer"),
        (jwt, "secret: sk-live-4242, inject: bearer"),
        (jwt, "secrets: { value: sk-live-4242 }, inject: bearer"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: cookie"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: { header: content-length }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: { header: \"a b\" }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: { basic: { user: \"a:b\" } }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: basic"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: { bearer: x }"),
        (jwt, "local_jwt: { issuer: \"https://e.example\" }, inject: { query: \"a&b\" }"),
    ]), @r#"
    error: credential `jwt` names no kind
      --> exeat.yaml:16:3
       |
    16 |   jwt: { inject: bearer }
       |   ^^^
       |
       = help: write `local_jwt: { issuer, .. }`, `jwt_svid: { audience }` or `secret: { value: "${env:NAME}" }`

    error: credential `jwt` is the workload's own JWT-SVID, and no identity brings one
      --> exeat.yaml:16:3
       |
    16 |   jwt: { jwt_svid: { audience: "https://ledger.example" } }
       |   ^^^
       |
       = help: add `identities: { pod: { spiffe: {} } }` and accept it on a listener, or `broker_api` for one exeat per host

    error[unknown-field]: unknown field `ttl`
      --> exeat.yaml:16:36
       |
    16 |   jwt: { jwt_svid: { audience: "", ttl: 60s } }
       |                                    ^^^
       |
       = help: the fields here are: audience

    error: credential `jwt` names two kinds
      --> exeat.yaml:16:3
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, secret: { value: "${env:X}" }, inject: bearer }
       |   ^^^
       |
       = help: make two credentials of it

    error: `exeat.t.example` cannot be an issuer
      --> exeat.yaml:16:31
       |
    16 |   jwt: { local_jwt: { issuer: exeat.t.example } }
       |                               ^^^^^^^^^^^^^^^
       |
       = help: an https URL without query, such as https://exeat.prod.example; http only on loopback

    error: `http://exeat.t.example` cannot be an issuer
      --> exeat.yaml:16:31
       |
    16 |   jwt: { local_jwt: { issuer: "http://exeat.t.example" } }
       |                               ^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: an https URL without query, such as https://exeat.prod.example; http only on loopback

    error: the audience is empty or holds control characters
      --> exeat.yaml:16:62
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example", audience: "" } }
       |                                                              ^^

    error: `read write` is not a scope
      --> exeat.yaml:16:61
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example", scopes: ["read write"] } }
       |                                                             ^^^^^^^^^^^^
       |
       = help: printable ASCII without space, quote and backslash (RFC 6749, section 3.3); one list entry for each scope

    error: `1h` is out of bounds: at least 1s, at most 900s
      --> exeat.yaml:16:57
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example", ttl: 1h } }
       |                                                         ^^
       |
       = help: everything is bounded; there is no way to write `unlimited`

    error[unknown-word]: unknown word `HS256`
      --> exeat.yaml:16:57
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example", alg: HS256 } }
       |                                                         ^^^^^
       |
       = help: did you mean `ES256`?

    error: credential `jwt` has no audience
      --> exeat.yaml:20:3
       |
    20 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", scopes: [read] } }
       |   ^^^
       |
       = help: write `audience:`; it is only told from an upstream where exactly one, with one exact origin, lists this credential

    error: credential `jwt` does not say where the secret is put
      --> exeat.yaml:16:3
       |
    16 |   jwt: { secret: { value: "${env:X}" } }
       |   ^^^
       |
       = help: write `inject: bearer`, `{ header: NAME }`, `{ basic: { user: NAME } }` or `{ query: NAME }`

    error: secrets come from `env`, `file` or `credential`
      --> exeat.yaml:16:27
       |
    16 |   jwt: { secret: { value: [hidden]
       |                           ^
       |
       = help: write ${env:NAME}, ${file:PATH} or ${credential:NAME}

    error: `${env:..}` names nothing usable
      --> exeat.yaml:16:27
       |
    16 |   jwt: { secret: { value: [hidden]
       |                           ^
       |
       = help: letters, digits, `_`, `-` and `.`

    error: a secret must not stand in this file; a reference to it belongs here
      --> exeat.yaml:16:8
       |
    16 |   jwt: [hidden]
       |        ^
       |
       = help: write ${env:NAME}, ${file:PATH} or ${credential:NAME}; if a real secret stood here, replace it: it has been seen

    error: expected a mapping, found a single value
      --> exeat.yaml:16:8
       |
    16 |   jwt: [hidden]
       |        ^^^^^^^^
       |
       = help: write `{ name: value }`, or indented lines of `name: value`

    error[unknown-field]: unknown field `secrets`
      --> exeat.yaml:16:8
       |
    16 |   jwt: [hidden]
       |        ^^^^^^^
       |
       = help: did you mean `secret`?

    error[unknown-word]: unknown word `cookie`
      --> exeat.yaml:16:62
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: cookie }
       |                                                              ^^^^^^
       |
       = help: the words here are: bearer, basic, header, query

    error: a credential cannot be put into `content-length`: it shapes the request itself
      --> exeat.yaml:16:72
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: { header: content-length } }
       |                                                                        ^^^^^^^^^^^^^^
       |
       = help: name the upstream's own header

    error: `a b` is not a header name
      --> exeat.yaml:16:72
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: { header: "a b" } }
       |                                                                        ^^^^^
       |
       = help: letters, digits and `-`: x-api-key

    error: a user name of Basic has no colon and no control character
      --> exeat.yaml:16:79
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: { basic: { user: "a:b" } } }
       |                                                                               ^^^^^
       |
       = help: RFC 7617, section 2

    error: `basic` needs a value
      --> exeat.yaml:16:62
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: basic }
       |                                                              ^^^^^
       |
       = help: write `{ basic: .. }`

    error: `bearer` stands alone, without a value
      --> exeat.yaml:16:72
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: { bearer: x } }
       |                                                                        ^
       |
       = help: write `bearer`

    error: `a&b` cannot be the name of a query parameter
      --> exeat.yaml:16:71
       |
    16 |   jwt: { local_jwt: { issuer: "https://e.example" }, inject: { query: "a&b" } }
       |                                                                       ^^^^^
       |
       = help: write it without `&`, `=`, `#`, `+`, `%`, `?` and spaces
    "#);
}

#[test]
fn the_policies() {
    let desk = Desk::new();
    let absent = desk.load(edited(&[("directory: p", "directory: absent")])).unwrap();
    insta::assert_snapshot!([mistakes(&[
        ("bounds: all", "bounds: some"),
        (", bounds: all", ""),
        ("bounds: all", "bounds: { identities: [], upstreams: [leger] }"),
        ("bounds: all", "bounds: { identities: [\"t.example/**\", \"spiffe://o.example/**\", \"spiffe://t.example/**/a\"], upstreams: [ledger] }"),
        ("bounds: all", "bounds: { identity: [\"spiffe://t.example/**\"], upstreams: [ledger] }"),
    ]), desk.shown(&absent.policy_errors)].join("\n\n"), @r#"
    error: `some` is no bound
      --> exeat.yaml:17:36
       |
    17 | policies: [{ directory: p, bounds: some }]
       |                                    ^^^^
       |
       = help: write `all`, or `{ identities: [..], upstreams: [..] }`

    error[missing-field]: field `bounds` is missing
      --> exeat.yaml:17:12
       |
    17 | policies: [{ directory: p }]
       |            ^

    error: no identities: no rule of this directory could be loaded
      --> exeat.yaml:17:50
       |
    17 | policies: [{ directory: p, bounds: { identities: [], upstreams: [leger] } }]
       |                                                  ^
       |
       = help: list at least one, or write `bounds: all`

    error[unknown-name]: there is no upstream `leger`
      --> exeat.yaml:17:66
       |
    17 | policies: [{ directory: p, bounds: { identities: [], upstreams: [leger] } }]
       |                                                                  ^^^^^
       |
       = help: did you mean `ledger`?

    error: `t.example/**` is no pattern of SPIFFE IDs: an identity pattern begins with `spiffe://` (or is `**`: every identity)
      --> exeat.yaml:17:51
       |
    17 | policies: [{ directory: p, bounds: { identities: ["t.example/**", "spiffe://o.example/**", "spiffe://t.example/**/a"], upstreams: [l...
       |                                                   ^^^^^^^^^^^^^^
       |
       = help: write spiffe://TRUST_DOMAIN/ns/billing/sa/app, /ns/*/sa/app or /ns/billing/**

    error: `spiffe://o.example/**` is not in the trust domain of this file
      --> exeat.yaml:17:67
       |
    17 | policies: [{ directory: p, bounds: { identities: ["t.example/**", "spiffe://o.example/**", "spiffe://t.example/**/a"], upstreams: [l...
       |                                                                   ^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: exeat speaks for workloads of its own trust domain only

    error: `spiffe://t.example/**/a` is no pattern of SPIFFE IDs: `**` can only be the last segment
      --> exeat.yaml:17:92
       |
    17 | policies: [{ directory: p, bounds: { identities: ["t.example/**", "spiffe://o.example/**", "spiffe://t.example/**/a"], upstreams: [l...
       |                                                                                            ^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write spiffe://TRUST_DOMAIN/ns/billing/sa/app, /ns/*/sa/app or /ns/billing/**

    error[unknown-field]: unknown field `identity`
      --> exeat.yaml:17:38
       |
    17 | policies: [{ directory: p, bounds: { identity: ["spiffe://t.example/**"], upstreams: [ledger] } }]
       |                                      ^^^^^^^^
       |
       = help: the fields here are: identities, upstreams

    error: the policy directory cannot be read: `absent`: No such file or directory (os error 2)
      --> exeat.yaml:17:25
       |
    17 | policies: [{ directory: absent, bounds: all }]
       |                         ^^^^^^
       |
       = help: paths are relative to this file
    "#);
}

#[test]
fn all_at_once() {
    let many = edited(&[
        ("trust_domain: t.example", "trust_domain: T"),
        ("capture: forward", "captur: forward"),
        ("upstream: ledger", "upstream: leger"),
        ("uid: 1001", "uid: root"),
        ("origins: [\"https://ledger.example:8443\"]", "origins: [ledger.example]"),
        ("scopes: [read]", "scope: [read]"),
        ("bounds: all", "bounds: some"),
        ("status:", "limits: { head_size: 1KB }\nstatus:"),
    ]);
    let desk = Desk::new();
    insta::assert_snapshot!(desk.errors(many), @r#"
    error: `T` is not a trust domain
     --> exeat.yaml:3:15
      |
    3 | trust_domain: T
      |               ^
      |
      = help: 1 to 255 of a-z, 0-9, `.`, `-` and `_`

    error[missing-field]: field `capture` is missing
     --> exeat.yaml:5:11
      |
    5 |   egress: { address: "127.0.0.1:15001", captur: forward, identity: [pod] }
      |           ^

    error[unknown-field]: unknown field `captur`
     --> exeat.yaml:5:41
      |
    5 |   egress: { address: "127.0.0.1:15001", captur: forward, identity: [pod] }
      |                                         ^^^^^^
      |
      = help: did you mean `capture`?

    error[unknown-name]: there is no upstream `leger`
     --> exeat.yaml:6:70
      |
    6 |   ledger: { address: "unix:///run/l.sock", capture: route, upstream: leger, identity: [local] }
      |                                                                      ^^^^^
      |
      = help: did you mean `ledger`?

    error: expected a whole number, found a single value
     --> exeat.yaml:9:44
      |
    9 |   local: { unix_peer: { workloads: [{ uid: root, id: "spiffe://t.example/ns/a/sa/c" }] } }
      |                                            ^^^^

    error: `ledger.example` has no scheme
      --> exeat.yaml:13:15
       |
    13 |     origins: [ledger.example]
       |               ^^^^^^^^^^^^^^
       |
       = help: write https://HOST or https://HOST:PORT; https://*.SUFFIX stands for one more label

    error[unknown-field]: unknown field `scope`
      --> exeat.yaml:16:58
       |
    16 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", scope: [read] } }
       |                                                          ^^^^^
       |
       = help: did you mean `scopes`?

    error: `some` is no bound
      --> exeat.yaml:17:36
       |
    17 | policies: [{ directory: p, bounds: some }]
       |                                    ^^^^
       |
       = help: write `all`, or `{ identities: [..], upstreams: [..] }`

    error: `1KB` is not a size
      --> exeat.yaml:18:22
       |
    18 | limits: { head_size: 1KB }
       |                      ^^^
       |
       = help: write bytes, or a whole number and a unit: 512B, 64KiB, 1MiB
    "#);
}

#[test]
fn what_somebody_should_look_at() {
    insta::assert_snapshot!(warnings(&[
        &[("state: /var/lib/exeat", "state: ephemeral")],
        &[("127.0.0.1:15001", "0.0.0.0:15001")],
        &[("127.0.0.1:15001", "192.0.2.1:15001")],
        &[("127.0.0.1:15001", "127.0.0.1:0")],
        &[("unix:///run/l.sock", "127.0.0.1:15003")],
        &[("identity: [pod]", "identity: [local]")],
        &[
            ("identity: [pod]", "identity: [local]"),
            (
                "unix_peer: { workloads: [{ uid: 1001, id: \"spiffe://t.example/ns/a/sa/c\" }] }",
                "broker_api: { socket: \"unix:///b/api.sock\", workload_api: { socket: \"unix:///a/api.sock\" } }",
            ),
            ("127.0.0.1:15001", "unix:///run/e.sock"),
        ],
        &[("https://ledger.example:8443", "http://ledger.example:8080")],
        &[("    credentials: [jwt]\n", ""), ("scopes: [read]", "audience: x")],
        &[("    credentials: [jwt]\n", "    intercept: false\n"), ("scopes: [read]", "audience: x")],
        &[("credentials: [jwt]", "credentials: [jwt]\n    strip: { keep: [x-api-key] }")],
        &[("credentials: [jwt]", "credentials: [jwt]\n    stage: { observe: { until: 2026-11-01 } }")],
        &[("local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] }", "secret: { value: \"${env:KEY}\" }, inject: { query: key }")],
        &[("status:", "unlisted: { observe: { until: 2026-12-01 } }\nstatus:")],
        &[("policies: [{ directory: p, bounds: all }]\n", "")],
    ]), @r#"
    warning[ephemeral]: state is ephemeral: keys, CA and revocations are gone with the process
     --> exeat.yaml:2:8
      |
    2 | state: ephemeral
      |        ^^^^^^^^^
      |
      = help: name a directory wherever tokens must verify after a restart

    warning[not-loopback]: listener `egress` can be reached from every network of this host
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "0.0.0.0:15001", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^^^^^
      |
      = help: traffic to exeat is plaintext: listen on 127.0.0.1, [::1] or a unix socket, or give it `tls`

    warning[not-loopback]: listener `egress` can be reached from the network
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "192.0.2.1:15001", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: traffic to exeat is plaintext: listen on 127.0.0.1, [::1] or a unix socket, or give it `tls`

    warning[random-port]: listener `egress` has no port of its own
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "127.0.0.1:0", capture: forward, identity: [pod] }
      |                      ^^^^^^^^^^^^^
      |
      = help: port 0 takes any free one: good for a test, unknown to the workload otherwise

    warning[uid-only]: identity `local` on TCP proves the uid only, not the process
     --> exeat.yaml:6:22
      |
    6 |   ledger: { address: "127.0.0.1:15003", capture: route, upstream: ledger, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: a unix socket also tells the process; every program of that uid is this workload

    warning[uid-only]: identity `local` on TCP proves the uid only, not the process
     --> exeat.yaml:5:22
      |
    5 |   egress: { address: "127.0.0.1:15001", capture: forward, identity: [local] }
      |                      ^^^^^^^^^^^^^^^^^
      |
      = help: a unix socket also tells the process; every program of that uid is this workload

    warning[unused]: no listener accepts identity `pod`
     --> exeat.yaml:8:3
      |
    8 |   pod: { fixed: { id: "spiffe://t.example/ns/a/sa/b" } }
      |   ^^^
      |
      = help: list it under `identity` of a listener, or take it away

    warning[unused]: no listener accepts identity `pod`
     --> exeat.yaml:8:3
      |
    8 |   pod: { fixed: { id: "spiffe://t.example/ns/a/sa/b" } }
      |   ^^^
      |
      = help: list it under `identity` of a listener, or take it away

    warning[experimental]: the SPIFFE Broker API is experimental: a later exeat or agent may change it without notice
     --> exeat.yaml:9:24
      |
    9 |   local: { broker_api: { socket: "unix:///b/api.sock", workload_api: { socket: "unix:///a/api.sock" } } }
      |                        ^
      |
      = help: read what it proves in docs/identity.md, and have another identity ready

    warning[plaintext-credentials]: upstream `ledger` has a plaintext origin: credentials can be read on the way to it
      --> exeat.yaml:14:19
       |
    14 |     credentials: [jwt]
       |                   ^^^
       |
       = help: write https://, or take the credentials away

    warning[unused]: no upstream lists credential `jwt`
      --> exeat.yaml:15:3
       |
    15 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", audience: x } }
       |   ^^^
       |
       = help: list it under `credentials` of an upstream, or take it away

    warning[not-stripped]: upstream `ledger` is not intercepted: what the application sends inside the tunnel is not stripped
      --> exeat.yaml:14:16
       |
    14 |     intercept: false
       |                ^^^^^
       |
       = help: remove the field where the application can trust exeat's CA

    warning[unused]: no upstream lists credential `jwt`
      --> exeat.yaml:16:3
       |
    16 |   jwt: { local_jwt: { issuer: "https://exeat.t.example", audience: x } }
       |   ^^^
       |
       = help: list it under `credentials` of an upstream, or take it away

    warning[kept]: `x-api-key` is kept: what the application sends there reaches the upstream
      --> exeat.yaml:15:21
       |
    15 |     strip: { keep: [x-api-key] }
       |                     ^^^^^^^^^
       |
       = help: take it away once the application no longer needs it

    warning[observation-ended]: this observation has ended: the rules hold now
      --> exeat.yaml:15:32
       |
    15 |     stage: { observe: { until: 2026-11-01 } }
       |                                ^^^^^^^^^^
       |
       = help: write `enforce`

    warning[long-lived]: credential `jwt` is a long-lived secret: whoever steals it from the upstream or from exeat can use it
      --> exeat.yaml:16:27
       |
    16 |   jwt: { secret: { value: "${env:KEY}" }, inject: { query: key } }
       |                           ^^^^^^^^^^^^
       |
       = help: prefer a kind that issues short-lived credentials where the upstream takes one

    warning[query-credential]: a credential in the query parameter `key` ends up in the upstream's access log
      --> exeat.yaml:16:60
       |
    16 |   jwt: { secret: { value: "${env:KEY}" }, inject: { query: key } }
       |                                                            ^^^
       |
       = help: prefer `inject: { header: NAME }` where the upstream takes it

    warning[unlisted-observed]: destinations that no upstream lists are let through, unjudged and unstripped, and recorded
      --> exeat.yaml:18:31
       |
    18 | unlisted: { observe: { until: 2026-12-01 } }
       |                               ^^^^^^^^^^
       |
       = help: list what you learn, then write `unlisted: refuse`

    warning[no-policy]: no policy directory: every request is refused
     --> exeat.yaml:1:8
      |
    1 | exeat: config/v1
      |        ^^^^^^^^^
      |
      = help: add `policies: [{ directory: PATH, bounds: all }]`
    "#);
    let desk = Desk::new();
    std::fs::rename(desk.dir.path().join("p/a.yaml"), desk.dir.path().join("p/a.yml")).unwrap();
    insta::assert_snapshot!(desk.shown(&desk.load(RIGHT).unwrap().warnings), @r#"
    warning[ignored-file]: `a.yml` in `p` is not read: policy files end in `.yaml`
      --> exeat.yaml:17:25
       |
    17 | policies: [{ directory: p, bounds: all }]
       |                         ^
       |
       = help: rename it, or take it away

    warning[no-policy]: the policy directory `p` holds no policy file
      --> exeat.yaml:17:25
       |
    17 | policies: [{ directory: p, bounds: all }]
       |                         ^
       |
       = help: without a rule every request is refused: add a *.yaml file
    "#);
}

/// Nobody's key is shown, wherever it was pasted.
#[test]
fn a_pasted_secret_is_not_repeated() {
    let desk = Desk::new();
    let jwt = "local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] }";
    for edit in [
        (jwt, "secret: { value: sk-live-4242 }, inject: bearer"),
        (jwt, "secret: sk-live-4242, inject: bearer"),
        (jwt, "secert: sk-live-4242, inject: bearer"),
        (
            "{ local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] } }",
            "\n    secret:\n      value: sk-live-4242\n    inject: bearer",
        ),
        (
            "{ local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] } }",
            "\n    secret:\n      valeu: sk-live-4242\n    inject: bearer",
        ),
        ("{ local_jwt: { issuer: \"https://exeat.t.example\", scopes: [read] } }", "\n    token: sk-live-4242"),
        ("status:", "telemetry: { otlp: { endpoint: \"http://c:4317\", headers: { authorization: sk-live-4242 } } }\nstatus:"),
        ("status:", "telemetry: { otlp: { endpoint: \"http://u:sk-live-4242@c:4317\" } }\nstatus:"),
        ("[\"https://ledger.example:8443\"]", "[\"https://u:sk-live-4242@ledger.example\"]"),
    ] {
        let errors = desk.load(edited(&[edit])).unwrap_err();
        let forms =
            |one: &Diagnostic| [one.render(), one.to_string(), format!("{one:?}"), one.to_json().to_string(), one.to_github()].concat();
        let text: String = errors.iter().map(forms).collect();
        assert!(!text.contains("4242"), "{text}");
    }
}

/// `restart_needed` names what a reload cannot take over.
#[test]
fn what_needs_a_restart_is_named() {
    let desk = Desk::new();
    let old = desk.load(RIGHT).unwrap().config;
    for (edit, named) in [
        (("127.0.0.1:15001", "127.0.0.1:15002"), vec!["listeners"]),
        (("state: /var/lib/exeat", "state: /var/lib/other\naudit: { file: /var/lib/exeat/audit }"), vec!["state"]),
        (("state: /var", "threads: 3\nstate: /var"), vec!["threads"]),
        (("status:", "admin: { address: \"unix:///a.sock\" }\nstatus:"), vec!["admin"]),
        (("127.0.0.1:15090", "127.0.0.1:15095"), vec!["status"]),
        (("status:", "telemetry: { otlp: { endpoint: \"http://c:4317\" } }\nstatus:"), vec!["telemetry"]),
        (("status:", "audit: stdout\nstatus:"), vec!["audit"]),
        (("status:", "drain: { delay: 1s }\nstatus:"), vec!["drain"]),
        (("status:", "revocations: { file: revoked }\nstatus:"), vec!["revocations"]),
        (("identity: [pod]", "identity: [local]"), vec![]),
        (("owner: team@t.example", "owner: others@t.example"), vec![]),
    ] {
        assert_eq!(super::restart_needed(&old, &desk.load(edited(&[edit])).unwrap().config), named, "{edit:?}");
    }
}

/// The paths in a file are relative to it, wherever the process runs.
#[test]
fn paths_are_relative_to_the_file() {
    let desk = Desk::new();
    let loaded = desk.load(edited(&[("state: /var/lib/exeat", "state: here")])).unwrap();
    assert_eq!(loaded.config.state, super::StatePlace::Directory(desk.dir.path().join("here")));
    assert_eq!(loaded.config.audit, super::Audit::File(desk.dir.path().join("here/audit")));
    assert_eq!(
        loaded.watched.directories.iter().map(|path| path.strip_prefix(desk.dir.path()).unwrap()).collect::<Vec<_>>(),
        [Path::new("p")]
    );
}
