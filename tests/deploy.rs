//! What `deploy/` and the `Dockerfile` promise, held against the binary: the manifest's configuration passes `exeat check`, its numbers
//! agree with each other, and the image's file system is enough to run the binary.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test fails loudly")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const EXEAT: &str = env!("CARGO_BIN_EXE_exeat");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Straight to the descriptor: what `println!` and `eprintln!` write is kept from the log of a test that passes.
fn skipped(why: &str) {
    let _unless_closed = std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes());
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The documents of the manifest.
fn manifest() -> Vec<Value> {
    serde_yaml::from_multiple(&read("deploy/sidecar.yaml")).expect("the manifest is YAML")
}

fn document(kind: &str, name: &str) -> Value {
    manifest()
        .into_iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("the manifest has no {kind} {name}"))
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().expect("a list").iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// `/etc/exeat` as the pod sees it; the signing key, which a Secret holds, is made up.
fn mounted() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let pod = document("Pod", "billing");
    let sources = &named(&pod["spec"]["volumes"], "config")["projected"]["sources"];
    for source in sources.as_array().expect("sources") {
        let (data, items) = match source["configMap"]["name"].as_str() {
            Some(name) => (document("ConfigMap", name)["data"].clone(), &source["configMap"]["items"]),
            None => (Value::Null, &source["secret"]["items"]),
        };
        for item in items.as_array().expect("items") {
            let (key, path) = (item["key"].as_str().expect("a key"), directory.path().join(item["path"].as_str().expect("a path")));
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, data[key].as_str().unwrap_or("made up\n")).expect("written");
        }
    }
    directory
}

#[test]
fn the_manifests_configuration_passes_check() {
    let mounted = mounted();
    let checked = output(Command::new(EXEAT).arg("check").arg("-c").arg(mounted.path().join("exeat.yaml")));
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("no error"), "{said}");
}

#[test]
fn the_manifests_numbers_agree() {
    let config: Value =
        serde_yaml::from_str(document("ConfigMap", "billing-exeat")["data"]["exeat.yaml"].as_str().expect("text")).expect("YAML");
    let pod = document("Pod", "billing");
    let (sidecar, app) = (named(&pod["spec"]["initContainers"], "exeat"), named(&pod["spec"]["containers"], "app"));

    let status = config["status"]["address"].as_str().expect("an address");
    let port = named(&sidecar["ports"], "exeat-status")["containerPort"].as_u64().expect("a port");
    assert!(status.ends_with(&format!(":{port}")), "the probes ask port {port}, the status server listens on {status}");
    for (probe, path) in [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        assert_eq!(sidecar[probe]["httpGet"]["path"], path, "{probe}");
        assert_eq!(sidecar[probe]["httpGet"]["port"], "exeat-status", "{probe}");
    }

    let egress = format!("http://{}", config["listeners"]["egress"]["address"].as_str().expect("an address"));
    for variable in ["HTTP_PROXY", "HTTPS_PROXY"] {
        assert_eq!(named(&app["env"], variable)["value"], egress.as_str(), "{variable}");
    }

    let uid = &config["identities"]["app"]["unix_peer"]["workloads"][0]["uid"];
    assert_eq!(&app["securityContext"]["runAsUser"], uid, "the application's uid is the one that the identity lists");
    assert_ne!(&app["securityContext"]["runAsUser"], &sidecar["securityContext"]["runAsUser"], "the application must not be exeat's user");
    assert_eq!(config["admin"]["allow_uids"][0], sidecar["securityContext"]["runAsUser"]);
}

/// Bytes, as the configuration (`16KiB`) and the pod (`512Mi`) write them.
fn bytes(written: &str) -> u64 {
    let (digits, unit) = written.split_at(written.find(|c: char| c.is_ascii_alphabetic()).expect("a unit"));
    let unit = match unit {
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        other => panic!("{other:?} in {written}"),
    };
    digits.parse::<u64>().expect("a number") * unit
}

#[test]
fn the_worst_case_fits_the_memory_limit() {
    const KIB: u64 = 1 << 10;
    let config: Value =
        serde_yaml::from_str(document("ConfigMap", "billing-exeat")["data"]["exeat.yaml"].as_str().expect("text")).expect("YAML");
    let limits = &config["limits"];
    let count = |name: &str| limits[name].as_u64().unwrap_or_else(|| panic!("limits.{name} is set"));
    let size = |name: &str| bytes(limits[name].as_str().unwrap_or_else(|| panic!("limits.{name} is set")));
    assert_eq!(config["telemetry"], Value::Null, "spans are not in the arithmetic");

    // docs/limits.md, "What all of it may hold"
    let tls = 96 * KIB;
    let request = |head: u64| 512 * KIB + 3 * head + tls;
    let http1 = tls + request(size("head_size"));
    let http2 = tls + 1024 * KIB + count("h2_streams") * request(size("h2_header_list"));
    let records = count("audit_queue") * size("head_size");
    let fixed =
        16 * 1024 * KIB + records + count("credential_cache") * 17 * KIB + config["threads"].as_u64().expect("threads") * 8192 * KIB;
    let most = count("connections") * http1.max(http2) + fixed;

    let pod = document("Pod", "billing");
    let limit = bytes(named(&pod["spec"]["initContainers"], "exeat")["resources"]["limits"]["memory"].as_str().expect("a limit"));
    assert!(most <= limit, "{} MiB at worst, {} MiB allowed", most >> 20, limit >> 20);
    // Each request under way has a place in the audit's queue, and each tunnel too.
    assert!(count("connections") * (count("h2_streams") + 1) <= count("audit_queue"), "requests would be refused for want of a record");
    // The comment tells the same.
    let manifest = read("deploy/sidecar.yaml");
    for said in [
        format!("= {:>5} KiB", request(size("h2_header_list")) / KIB),
        format!("= {},{:03} KiB", http2 / KIB / 1000, http2 / KIB % 1000),
        format!("=   {} MiB", (count("connections") * http2).div_ceil(1 << 20)),
        format!("=    {} MiB", fixed.div_ceil(1 << 20)),
        format!("in all {} of {} MiB", most.div_ceil(1 << 20), limit >> 20),
    ] {
        assert!(manifest.contains(&said), "the manifest's arithmetic does not say {said:?}");
    }
}

#[test]
fn the_sidecar_has_no_privilege() {
    let pod = document("Pod", "billing");
    let sidecar = named(&pod["spec"]["initContainers"], "exeat");
    assert_eq!(sidecar["restartPolicy"], "Always", "without it this is an init container that never ends");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let context = &sidecar["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"][0], "ALL");
    assert_eq!(context["capabilities"]["add"], Value::Null);
}

#[test]
fn the_network_policy_opens_the_resolver_and_what_the_catalogue_names() {
    let (policy, pod) = (document("NetworkPolicy", "billing-egress"), document("Pod", "billing"));
    for (label, value) in policy["spec"]["podSelector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(&pod["metadata"]["labels"][label], value, "the policy selects the pod");
    }
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Egress"]));
    let config: Value =
        serde_yaml::from_str(document("ConfigMap", "billing-exeat")["data"]["exeat.yaml"].as_str().expect("text")).expect("YAML");
    let mut named = Vec::new();
    for upstream in config["upstreams"].as_object().expect("upstreams").values() {
        for origin in upstream["origins"].as_array().expect("origins") {
            let origin = origin.as_str().expect("text");
            let written = origin.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            let port = written.unwrap_or(if origin.starts_with("https:") { 443 } else { 80 });
            for network in upstream["reach"]["networks"].as_array().expect("networks") {
                named.push((network.as_str().expect("text").to_owned(), u64::from(port)));
            }
        }
    }
    let mut open = Vec::new();
    for rule in policy["spec"]["egress"].as_array().expect("rules") {
        let ports: Vec<_> = rule["ports"].as_array().expect("ports").iter().map(|port| port["port"].as_u64().expect("a port")).collect();
        for peer in rule["to"].as_array().expect("no rule is open to everywhere") {
            match peer["ipBlock"]["cidr"].as_str() {
                Some(network) => open.extend(ports.iter().map(|port| (network.to_owned(), *port))),
                None => assert!(peer["podSelector"]["matchLabels"]["k8s-app"] == "kube-dns" && ports == [53, 53], "{rule}"),
            }
        }
    }
    assert_eq!(open, named);
}

/// Loads the rules in a network of its own and lets three users send to a neighbour there, and to loopback. Prints a line for each: the user,
/// where to, how it ended, and the packets that left for the neighbour.
const BY_UID: &str = r#"
set -e
ip link set lo up
ip link add near type veth peer name far
ip addr add 10.99.0.1/24 dev near
ip link set near up
ip link set far up
ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev near
nft -f "$1"
nft -f "$1"
nft 'add table inet probe; add counter inet probe left; add chain inet probe out { type filter hook postrouting priority 0; }'
nft 'add rule inet probe out ip daddr 10.99.0.2 counter name left'
for user in 10001 0 65064; do
  for to in udp/10.99.0.2 tcp/10.99.0.2 udp/127.0.0.1; do
    ended=0
    setpriv --reuid $user --regid $user --clear-groups timeout 0.9 bash -c "echo x > /dev/$to/9" 2> /dev/null || ended=$?
    echo "$user $to $ended $(nft reset counter inet probe left | grep -o 'packets [0-9]*')"
  done
done
"#;

#[test]
fn nobody_but_exeat_leaves_by_the_rules_of_egress_nft() {
    for tool in ["nft", "ip", "setpriv", "unshare"] {
        if !output(Command::new("sh").args(["-c", &format!("command -v {tool}")])).status.success() {
            println!("skipped: {tool} not present");
            return;
        }
    }
    if !output(Command::new("unshare").args(["-n", "nft", "list", "ruleset"])).status.success() {
        println!("skipped: needs root, network namespaces and nf_tables");
        return;
    }
    let sidecar = &document("Pod", "billing")["spec"]["initContainers"];
    let uid = named(sidecar, "exeat")["securityContext"]["runAsUser"].as_u64().expect("a uid");
    assert!(read("deploy/egress.nft").contains(&format!("meta skuid {uid} accept")), "the rules are for the sidecar's user");

    let ran = output(Command::new("unshare").args(["-n", "bash", "-c", BY_UID, "bash"]).arg(root().join("deploy/egress.nft")));
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
    for line in [
        "10001 udp/10.99.0.2 1 packets 0",
        // refused, not timed out (124)
        "10001 tcp/10.99.0.2 1 packets 0",
        "10001 udp/127.0.0.1 0 packets 0",
        "0 udp/10.99.0.2 1 packets 0",
        "0 tcp/10.99.0.2 1 packets 0",
        "65064 udp/10.99.0.2 0 packets 1",
        // nobody answers there
        "65064 tcp/10.99.0.2 124 packets 1",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}

#[test]
fn image_and_manifest_name_one_user_and_one_configuration() {
    let (dockerfile, pod) = (read("Dockerfile"), document("Pod", "billing"));
    let sidecar = named(&pod["spec"]["initContainers"], "exeat");
    let uid = sidecar["securityContext"]["runAsUser"].as_u64().expect("a uid");
    assert!(dockerfile.contains(&format!("USER {uid}:{uid}")), "{dockerfile}");
    assert!(read("deploy/rootfs").contains(&format!("user={uid}")));
    assert_eq!(pod["spec"]["securityContext"]["fsGroup"], uid);
    assert!(dockerfile.contains(r#"ENTRYPOINT ["/exeat"]"#));
    let command = dockerfile.lines().find_map(|line| line.strip_prefix("CMD ")).expect("a CMD");
    let command: Value = serde_json::from_str(command).expect("the exec form");
    assert_eq!(command, sidecar["args"], "the manifest starts what the image starts by itself");
}

#[test]
fn the_images_file_system_runs_the_binary() {
    let image = TempDir::new().expect("a directory");
    let built = output(Command::new(root().join("deploy/rootfs")).arg(EXEAT).arg(image.path()));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert!(!image.path().join("bin").exists() && !image.path().join("usr/bin").exists(), "no shell, no tools");
    assert!(image.path().join("etc/ssl/certs/ca-certificates.crt").exists());
    let ran = output(Command::new("chroot").arg("--userspec=65064:65064").arg(image.path()).args(["/exeat", "version"]));
    if !nix::unistd::geteuid().is_root() {
        return skipped("running the image's file system needs root");
    }
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains(env!("CARGO_PKG_VERSION")), "{}", String::from_utf8_lossy(&ran.stdout));
}

/// Name and version of everything that is locked.
fn locked() -> Vec<(String, String)> {
    let lock = read("Cargo.lock");
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    lock.split("[[package]]").skip(1).map(|package| (field(package, "name"), field(package, "version"))).collect()
}

#[test]
fn the_bill_of_materials_is_what_the_lock_file_pins() {
    if Command::new("python3").args(["-c", "import tomllib"]).output().map_or(true, |python| !python.status.success()) {
        return skipped("python3 (3.11) not present");
    }
    let made = output(&mut Command::new(root().join("deploy/sbom")));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bill: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&Value::from("CycloneDX"), &Value::from("1.5")));
    let (components, locked) = (bill["components"].as_array().expect("components"), locked());
    for component in components {
        let pinned = locked.iter().any(|(name, version)| component["name"] == **name && component["version"] == **version);
        assert!(pinned, "not locked: {component}");
        let sum = component["hashes"][0]["content"].as_str().unwrap_or_default();
        assert!(sum.len() == 64 && component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let scope = |name: &str| components.iter().find(|component| component["name"] == name).map(|component| component["scope"].clone());
    for (name, expected) in [("hyper", Some("required")), ("aws-lc-sys", Some("required")), ("serde_derive", Some("excluded"))] {
        assert_eq!(scope(name), expected.map(Value::from), "{name}");
    }
    for absent in ["proptest", "insta", "ring", "openssl-sys"] {
        assert_eq!(scope(absent), None, "{absent} is of tests, or banned");
    }
}

#[test]
fn the_notes_are_of_the_versions_that_are_locked() {
    let (page, locked) = (read("docs/supply-chain.md"), locked());
    let (_, notes) = page.split_once("## What parses foreign bytes").expect("the notes");
    let crates: Vec<_> = notes.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()?.split_once(' ')).collect();
    assert!(crates.len() > 15, "{crates:?}");
    for (name, version) in crates {
        assert!(
            locked.iter().any(|(known, pinned)| known == name && pinned == version),
            "docs/supply-chain.md speaks of {name} {version}: look at what changed, then say so there"
        );
    }
}
