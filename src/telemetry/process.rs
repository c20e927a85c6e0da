//! The process's own figures, under the names that every Prometheus dashboard knows, read from `/proc/self` when somebody asks.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

use super::metrics::gauge;

/// Ticks of `/proc` per second: fixed in the kernel's interface to user space.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process;

/// Fields of `/proc/self/stat` behind the command name (proc(5): field 3 is the first).
fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0.0)).collect())
}

fn boot_time() -> Option<f64> {
    fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

impl Collector for Process {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; file descriptors are few")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        if let Some(stat) = stat() {
            let field = |number: usize| stat.get(number - 3).copied().unwrap_or(0.0);
            let cpu = ConstCounter::new((field(14) + field(15)) / TICKS);
            cpu.encode(e.encode_descriptor("process_cpu_seconds", "User and system time", None, cpu.metric_type())?)?;
            gauge(e, "process_virtual_memory_bytes", "Virtual memory", field(23))?;
            gauge(e, "process_threads", "Threads", field(20))?;
            if let Some(boot) = boot_time() {
                gauge(e, "process_start_time_seconds", "Start, in seconds since 1970", boot + field(22) / TICKS)?;
            }
        }
        if let Some(resident) = resident() {
            gauge(e, "process_resident_memory_bytes", "Resident memory", resident)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge(e, "process_open_fds", "Open file descriptors", open.count() as f64)?;
        }
        if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            gauge(e, "process_max_fds", "File descriptors that may be open", soft as f64)?;
        }
        Ok(())
    }
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1_024.0)
}
