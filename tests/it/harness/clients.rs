//! Unmodified programs as clients.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::BOUND;

/// Where `tests/it/clients/install` puts what is not part of a Debian machine.
pub fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

/// A script of `tests/it/clients`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

/// The first program that there is and that this call of it says is usable.
pub fn find(candidates: &[PathBuf], probe: &[&str]) -> Option<PathBuf> {
    candidates
        .iter()
        .find(|path| Command::new(path).args(probe).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success()))
        .cloned()
}

/// A Python that has this module.
pub fn python(module: &str) -> Option<PathBuf> {
    find(&[installed().join("python/bin/python"), "python3".into()], &["-c", &format!("import {module}")])
}

/// Runs a program to its end, with a bound.
pub fn output(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let read = |mut stream: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let _read = stream.read_to_end(&mut all);
            all
        })
    };
    let (out, err) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let began = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waits") {
            break status;
        }
        if began.elapsed() > BOUND * 3 {
            let _killed = child.kill();
            let _reaped = child.wait();
            let stderr = err.join().expect("read");
            panic!(
                "{command:?} did not end:\n{}\n{}",
                String::from_utf8_lossy(&out.join().expect("read")),
                String::from_utf8_lossy(&stderr)
            );
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    };
    Output { status, stdout: out.join().expect("read"), stderr: err.join().expect("read") }
}

/// Runs a program that must succeed, and gives what it wrote to stdout.
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}
