//! Story: programs that know nothing of exeat, and send their old keys, work through it; their keys stay behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::clients::{find, installed, output, python, script, succeed};
use crate::harness::exeat::{APP, Capture, audience, command, policy_head};
use crate::harness::{Exeat, House, Seen, Upstream, jwt, skipped, until};

struct Street {
    exeat: Exeat,
    tls: Upstream,
    plain: Upstream,
    /// The system's roots and exeat's authority.
    bundle: PathBuf,
    /// exeat's authority alone.
    ca: PathBuf,
}

fn street() -> Street {
    let (tls, plain) = (Upstream::https(), Upstream::http());
    let rules = r#"  - { id: tls, effect: allow, to: [tls], methods: ["*"], paths: ["/**"], grant: tls-jwt }
  - { id: plain, effect: allow, to: [plain], methods: ["*"], paths: ["/**"], grant: plain-jwt }
  - { id: shut, effect: deny, to: [tls], methods: ["*"], paths: ["/it.Shut/**"] }
"#;
    let exeat = House::new()
        .listener("egress", Capture::Forward)
        .listener("door", Capture::Route("plain"))
        .upstream("tls", &tls)
        .upstream("plain", &plain)
        .policy("base.yaml", &(policy_head("base") + rules))
        .start();
    let (bundle, ca) = (exeat.house.path().join("bundle.pem"), exeat.house.path().join("ca.pem"));
    let config = exeat.config.display().to_string();
    fs::write(&ca, succeed(&mut command(&["ca", "-c", &config]))).expect("written");
    fs::write(&bundle, succeed(&mut command(&["ca", "-c", &config, "--bundle"]))).expect("written");
    Street { exeat, tls, plain, bundle, ca }
}

impl Street {
    /// A program with the proxy's variables, in both cases, as `exeat exec` will set them.
    fn program(&self, program: &Path) -> Command {
        let proxy = format!("http://127.0.0.1:{}", self.exeat.port("egress"));
        let mut command = Command::new(program);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, &proxy).env(name.to_ascii_lowercase(), &proxy);
        }
        command
            .env("NO_PROXY", "")
            .env("no_proxy", "")
            .env_remove("GRPC_PROXY")
            .current_dir(self.exeat.house.path())
            .env("HOME", self.exeat.house.path());
        command
    }

    /// Fails unless these requests carry this upstream's token for the app, and nothing of what the program sent.
    fn judged(&self, seen: &[Seen], upstream: &str) {
        assert!(!seen.is_empty(), "nothing arrived");
        let keys = self.exeat.jwks();
        for one in seen {
            let text = one.text();
            assert!(!text.contains("static-canary"), "a static credential arrived: {text}");
            let token = one.bearer().unwrap_or_else(|| panic!("no token: {text}"));
            let claims = jwt::verify(token, &keys, &audience(upstream)).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(claims["sub"], APP);
            assert!(jwt::verify(token, &keys, &audience("another")).is_err(), "the token is good for one audience");
        }
    }
}

/// The program, or the word that it is missing.
fn present(name: &str, candidates: &[PathBuf], probe: &[&str]) -> Option<PathBuf> {
    let found = find(candidates, probe);
    if found.is_none() {
        skipped(&format!("{name} not present"));
    }
    found
}

#[test]
fn curl() {
    let Some(curl) = present("curl", &["curl".into()], &["--version"]) else { return };
    let street = street();
    let credentials =
        ["-H", "Authorization: Bearer static-canary-bearer", "-H", "X-Api-Key: static-canary-key", "-b", "session=static-canary-cookie"];
    for (version, target) in [("--http1.1", "curl1"), ("--http2", "curl2")] {
        let url = format!("https://{}/{target}?api_key=static-canary-query", street.tls.authority());
        let text = succeed(
            street
                .program(&curl)
                .args(["-sS", "--fail", version])
                .args(credentials)
                .args(["-d", "hello"])
                .arg(&url)
                .env("CURL_CA_BUNDLE", &street.bundle),
        );
        assert!(text.contains("\"body_len\":5"), "{text}");
        street.judged(&street.tls.matching(target), "tls");
    }
    let url = format!("http://user:static-canary-password@{}/curl-plain", street.plain.authority());
    succeed(street.program(&curl).args(["-sS", "--fail"]).args(credentials).arg(&url));
    street.judged(&street.plain.matching("/curl-plain"), "plain");
    // It does not trust exeat unless it is told to.
    let refused = output(street.program(&curl).args(["-sS", &format!("https://{}/untrusted", street.tls.authority())]));
    assert!(!refused.status.success());
    assert!(street.tls.matching("/untrusted").is_empty());
}

#[test]
fn python_requests() {
    let Some(python) = python("requests") else { return skipped("Python requests not present") };
    let street = street();
    for (upstream, name) in [(&street.tls, "tls"), (&street.plain, "plain")] {
        let text = succeed(
            street
                .program(&python)
                .arg(script("requests_client.py"))
                .arg(format!("{}/requests", upstream.origin()))
                .env("REQUESTS_CA_BUNDLE", &street.bundle),
        );
        assert_eq!(text.lines().collect::<Vec<_>>(), ["GET", "POST"]);
        let seen = upstream.matching("/requests");
        assert_eq!(seen.len(), 2);
        street.judged(&seen, name);
    }
}

#[test]
fn node() {
    let candidates = [installed().join("node/node_modules/node/bin/node"), "node".into()];
    let Some(node) = present("Node 22", &candidates, &["-e", "process.exit(Number(process.versions.node.split('.')[0]) >= 22 ? 0 : 1)"])
    else {
        return;
    };
    let street = street();
    let mut command = street.program(&node);
    command
        .arg(script("node_client.mjs"))
        .args([street.tls.origin(), street.plain.origin()])
        .env("NODE_USE_ENV_PROXY", "1")
        .env("NODE_EXTRA_CA_CERTS", &street.ca);
    let text = succeed(&mut command);
    assert_eq!(text.lines().collect::<Vec<_>>(), ["200 5", "200 5", "200", "200"]);
    for (upstream, name) in [(&street.tls, "tls"), (&street.plain, "plain")] {
        street.judged(&upstream.matching("/fetch"), name);
        street.judged(&upstream.matching("/get"), name);
    }
}

#[test]
fn java() {
    let Some(java) = present("Java", &["java".into()], &["--list-modules"]) else { return };
    let Some(keytool) = present("keytool", &["keytool".into()], &["-help"]) else { return };
    let street = street();
    let store = street.exeat.house.path().join("trust.p12");
    succeed(
        Command::new(keytool)
            .args(["-importcert", "-noprompt", "-alias", "exeat", "-storetype", "PKCS12", "-storepass", "changeit", "-keystore"])
            .arg(&store)
            .arg("-file")
            .arg(&street.ca),
    );
    let port = street.exeat.port("egress");
    let options = format!(
        "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={port} -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={port} -Dhttp.nonProxyHosts= -Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword=changeit -XX:TieredStopAtLevel=1 -Xshare:auto",
        store.display()
    );
    let text = succeed(
        street.program(&java).env("JAVA_TOOL_OPTIONS", options).arg(script("Client.java")).arg(format!("{}/java", street.tls.origin())),
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("200 HTTP_")).count(), 2, "{text}");
    let seen = street.tls.matching("/java");
    assert_eq!(seen.len(), 2);
    street.judged(&seen, "tls");
}

#[test]
fn git() {
    let Some(git) = present("git", &["git".into()], &["--version"]) else { return };
    let street = street();
    let root = street.exeat.house.path();
    let work = root.join("work");
    let quiet = |command: &mut Command| succeed(command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0"));
    quiet(Command::new(&git).args(["init", "-q"]).arg(&work));
    fs::write(work.join("story"), "once upon a time\n").expect("written");
    quiet(Command::new(&git).arg("-C").arg(&work).args(["add", "."]));
    quiet(Command::new(&git).arg("-C").arg(&work).args(["-c", "user.name=it", "-c", "user.email=it@example.com", "commit", "-qm", "one"]));
    let bare = root.join("repo.git");
    quiet(Command::new(&git).args(["clone", "-q", "--bare"]).arg(&work).arg(&bare));
    quiet(Command::new(&git).arg("-C").arg(&bare).arg("update-server-info"));
    let mut directories = vec![bare.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("readable").flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                let path = format!("/repo.git/{}", entry.path().strip_prefix(&bare).expect("inside").display());
                street.tls.file(&path, fs::read(entry.path()).expect("read"));
            }
        }
    }
    let clone = root.join("clone");
    let mut command = street.program(&git);
    command.args([
        "-c",
        "http.extraHeader=Authorization: Bearer static-canary-bearer",
        "-c",
        "http.extraHeader=Private-Token: static-canary-key",
        "clone",
        "-q",
    ]);
    quiet(command.arg(format!("{}/repo.git", street.tls.origin())).arg(&clone).env("GIT_SSL_CAINFO", &street.bundle));
    assert_eq!(fs::read_to_string(clone.join("story")).expect("cloned"), "once upon a time\n");
    street.judged(&street.tls.matching("/repo.git"), "tls");
}

#[test]
fn python_grpc() {
    let Some(python) = python("grpc") else { return skipped("Python grpcio not present") };
    let street = street();
    let mut command = street.program(&python);
    command.arg(script("grpc_client.py")).arg(street.tls.authority()).env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", &street.bundle);
    let text = succeed(&mut command);
    assert_eq!(text.trim(), "PERMISSION_DENIED", "a refusal is a gRPC status");
    for target in ["/it.Echo/Say", "/it.Echo/Chat"] {
        street.judged(&street.tls.matching(target), "tls");
    }
    assert!(street.tls.matching("/it.Shut").is_empty());
}

#[test]
fn nghttp() {
    let Some(nghttp) = present("nghttp", &["nghttp".into()], &["--version"]) else { return };
    let street = street();
    let url = format!("http://127.0.0.1:{}/nghttp?api_key=static-canary-query", street.exeat.port("door"));
    let mut command = Command::new(nghttp);
    command.args(["-H", "authorization: Bearer static-canary-bearer", "-H", "x-api-key: static-canary-key", "--no-dep"]).arg(&url);
    let text = succeed(&mut command);
    assert!(text.contains("/nghttp"), "{text}");
    street.judged(&street.plain.matching("/nghttp"), "plain");
}

#[test]
fn websocket() {
    let Some(python) = python("websockets") else { return skipped("Python websockets not present") };
    let street = street();
    let url = format!("wss://{}/ws?token=static-canary-query", street.tls.authority());
    let text = succeed(street.program(&python).arg(script("websocket_client.py")).arg(url).env("SSL_CERT_FILE", &street.bundle));
    assert_eq!(text.lines().collect::<Vec<_>>(), ["hello", "again"]);
    street.judged(&street.tls.matching("/ws"), "tls");
    until("the end of the WebSocket in the audit", || {
        street.exeat.audit().iter().any(|record| record["kind"] == "access" && record["path"] == "/ws").then_some(())
    });
}
