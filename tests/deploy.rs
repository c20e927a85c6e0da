//! What `deploy/` and the `Dockerfile` promise, held against the binary: the manifest's configuration passes `exeat check`, its numbers
//! agree with each other, and the image's file system is enough to run the binary.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test fails loudly")]

use std::fs;
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
        println!("skipped: needs root");
        return;
    }
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains(env!("CARGO_PKG_VERSION")), "{}", String::from_utf8_lossy(&ran.stdout));
}
