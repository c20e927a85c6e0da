//! `exeat policy promote`: moves an upstream from `observe` to `enforce`, or back, where its traffic speaks for it.
//!
//! The configuration is edited in its place, and only where the stage stands; a running exeat takes it over as any other change.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;

use super::log;
use super::world::{World, lines};
use crate::audit::shown;
use crate::catalogue::{Stage, Upstream};
use crate::cli::args::{ConfigArg, USAGE};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config;
use crate::evidence::{Case, Questions};
use crate::written::Source;

/// How far back the evidence reaches.
const DAYS: i64 = 7;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PromoteArgs {
    /// The upstream, by its name in the catalogue.
    upstream: String,
    /// Its new stage.
    #[arg(long, value_enum)]
    to: To,
    /// Enforce for this share of the traffic only (by a hash of the trace id); the rest stays observed.
    #[arg(long, value_name = "1-99", value_parser = clap::value_parser!(u8).range(1..=99))]
    percent: Option<u8>,
    /// The end of the observation (with `--to observe`), a date or an RFC 3339 time within 30 days.
    #[arg(long, value_name = "DATE")]
    until: Option<String>,
    /// Would-be refusals that are meant to be, by their id; may be repeated.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    acknowledge: Vec<String>,
    #[command(flatten)]
    config: ConfigArg,
    /// An audit log: a file, or a directory of segments. Default: the configuration's own; may be repeated.
    #[arg(long, value_name = "PATH")]
    audit: Vec<PathBuf>,
    /// Print what would change in the file, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// The evidence as JSON.
    #[arg(long)]
    json: bool,
}

/// A stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// Strip, decide, inject.
    Enforce,
    /// Let pass, and record what would be.
    Observe,
}

pub(super) fn promote(args: &PromoteArgs) -> ExitCode {
    let world = match World::load(&args.config.config) {
        Ok(world) => world,
        Err(code) => return code,
    };
    let Some(upstream) = world.loaded.catalogue.by_name(&args.upstream) else {
        let known: Vec<&str> = world.loaded.catalogue.all().iter().map(|upstream| &*upstream.name).collect();
        let hint = crate::written::suggest(&args.upstream, known.iter().copied())
            .map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
        eprintln!("exeat: there is no upstream `{}`{hint}", args.upstream);
        return ExitCode::from(USAGE);
    };
    match run(args, &world, upstream, SystemClock.now()) {
        Ok(done) => {
            if done {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(Wrong::Usage(why)) => {
            eprintln!("exeat: {why}");
            ExitCode::from(USAGE)
        }
        Err(Wrong::Failure(why)) => {
            eprintln!("exeat: {why}");
            ExitCode::FAILURE
        }
    }
}

enum Wrong {
    Usage(String),
    Failure(String),
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Failure(why)
    }
}

fn run(args: &PromoteArgs, world: &World, upstream: &Arc<Upstream>, now: Timestamp) -> Result<bool, Wrong> {
    let stage = written(args, upstream, now).map_err(Wrong::Usage)?;
    if args.to == To::Enforce {
        if let (Stage::Enforce, None) = (upstream.stage, args.percent) {
            return Err(Wrong::Usage(format!("upstream `{}` is enforced already", upstream.name)));
        }
        let case = case(args, world, upstream, now)?;
        let acknowledged: BTreeSet<String> = args.acknowledge.iter().cloned().collect();
        let rehearses = matches!(upstream.stage, Stage::Observe { rehearse: true, .. }) && !upstream.credentials.is_empty();
        let against = case.against(&acknowledged, rehearses.then_some(&*upstream.credentials));
        if args.json {
            println!("{:#}", document(&case, &acknowledged, &against));
        } else {
            eprint!("{}", page(&case, &acknowledged, &against));
        }
        if !against.is_empty() {
            return Ok(false);
        }
    }
    edit(&args.config.config, upstream, &stage, args.dry_run)?;
    Ok(true)
}

/// The stage as the file will say it.
fn written(args: &PromoteArgs, upstream: &Upstream, now: Timestamp) -> Result<String, String> {
    let (known, rehearse) = match upstream.stage {
        Stage::Observe { until, rehearse, .. } => (Some(until).filter(|until| now < *until), rehearse),
        Stage::Enforce => (None, false),
    };
    let rehearse = if rehearse { ", rehearse: true" } else { "" };
    match (args.to, args.percent, &args.until) {
        (To::Enforce, None, None) => Ok("enforce".to_owned()),
        (To::Enforce, None, Some(_)) => {
            Err("--until is the end of an observation: it goes with `--to observe` or with --percent".to_owned())
        }
        (To::Observe, Some(_), _) => Err("--percent is a share that is enforced: it goes with `--to enforce`".to_owned()),
        (To::Observe, None, None) => Err("an observation has an end: --until DATE, within 30 days".to_owned()),
        (To::Observe, None, Some(until)) => Ok(format!("{{ observe: {{ until: {}{rehearse} }} }}", moment(until)?)),
        (To::Enforce, Some(percent), until) => {
            let until = match (until, known) {
                (Some(until), _) => moment(until)?,
                (None, Some(until)) => until.to_string(),
                (None, None) => return Err("upstream is not observed: say with --until how long the rest is to be".to_owned()),
            };
            Ok(format!("{{ observe: {{ until: {until}{rehearse}, enforce_percent: {percent} }} }}"))
        }
    }
}

/// A date or time as it was written, which cannot be anything else.
fn moment(text: &str) -> Result<String, String> {
    if !text.contains('-') || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'+' | b'.')) {
        return Err(format!("--until {text}: write a date (2026-12-20) or an RFC 3339 time"));
    }
    log::since(text, Timestamp::UNIX_EPOCH).map(|_| text.to_owned()).map_err(|why| why.replace("--since", "--until"))
}

fn case(args: &PromoteArgs, world: &World, upstream: &Upstream, now: Timestamp) -> Result<Case, String> {
    let since = now.checked_sub(jiff::SignedDuration::from_hours(24 * DAYS)).ok();
    let mut questions = Questions::new(&world.loaded.catalogue).ok_or("the rules of `strip` cannot be read")?;
    let mut case = Case::new(&upstream.name);
    log::each(&log::paths(&args.audit, &world.loaded.config)?, since, |line| {
        case.add(&mut questions, &world.set, line);
        Ok(())
    })?;
    Ok(case)
}

fn page(case: &Case, acknowledged: &BTreeSet<String>, against: &[String]) -> String {
    let mut text = String::new();
    let _written = writeln!(text, "observed   {} in the last {DAYS} days", case.observed.sentence());
    let _written = writeln!(text, "allowed    {} by the rules of now, {} of which were refused before", case.allowed, case.mended);
    for (id, objection) in &case.objections {
        let mark = if acknowledged.contains(id) { "acknowledged" } else { "OPEN" };
        let _written = writeln!(text, "would-deny {id} {mark:<12} {}", shown(&objection.what));
        let _written = writeln!(text, "             {}; traces {}", objection.tally.sentence(), shown(&objection.tally.traces.join(" ")));
    }
    for ((credential, workload), rehearsed) in &case.rehearsals {
        let ended = match &rehearsed.last {
            Some((_, Some(why))) => format!("FAILED at last: {}", shown(why)),
            Some((at, None)) => format!("obtained at {at}"),
            None => "-".to_owned(),
        };
        let (obtained, failed) = (rehearsed.obtained, rehearsed.failed);
        let line = format!("{credential} for {workload}: {obtained} obtained, {failed} failed; {ended}");
        let _written = writeln!(text, "rehearsed  {}", shown(&line));
    }
    for why in against {
        let _written = writeln!(text, "not yet    {}", shown(why));
    }
    if case.objections.keys().any(|id| !acknowledged.contains(id)) {
        text.push_str("Write rules for what should pass (`exeat policy suggest`), and name what should not with --acknowledge ID.\n");
    }
    text
}

fn document(case: &Case, acknowledged: &BTreeSet<String>, against: &[String]) -> serde_json::Value {
    let objections = case.objections.iter().map(|(id, objection)| {
        json!({ "id": id, "what": objection.what, "evidence": objection.tally.to_json(), "acknowledged": acknowledged.contains(id) })
    });
    let rehearsals = case.rehearsals.iter().map(|((credential, workload), rehearsed)| {
        let (at, failure) = rehearsed.last.as_ref().map_or((None, None), |(at, failure)| (Some(at.to_string()), failure.as_deref()));
        json!({
            "credential": credential, "workload": workload, "obtained": rehearsed.obtained, "failed": rehearsed.failed, "last": at, "failure": failure,
        })
    });
    json!({
        "days": DAYS, "observed": case.observed.to_json(), "allowed": case.allowed, "mended": case.mended,
        "would_deny": objections.collect::<Vec<_>>(), "rehearsals": rehearsals.collect::<Vec<_>>(), "against": against,
    })
}

/// Edits the file, proves that the new one means the same but for this stage, and puts it in the place of the old one in one step.
fn edit(path: &Path, upstream: &Upstream, stage: &str, dry_run: bool) -> Result<(), String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("`{}` {what}: {error}", path.display());
    // a ConfigMap's file is a link: what it leads to is edited, not the link
    let place = std::fs::canonicalize(path).map_err(|error| failed("cannot be found", &error))?;
    let text = std::fs::read_to_string(&place).map_err(|error| failed("cannot be read", &error))?;
    let new = config::restage(&Source::new(path.display().to_string(), text.as_str()), &upstream.name, stage)
        .map_err(|mistakes| lines(&mistakes))?;
    let directory = place.parent().unwrap_or(Path::new("."));
    let name = place.file_name().and_then(|name| name.to_str()).unwrap_or("exeat.yaml");
    // beside the old one, so that what is relative to it is found
    let draft = Draft(directory.join(format!(".{name}.promote-{}", std::process::id())));
    draft.write(&new, &place).map_err(|error| failed("cannot be written anew", &error))?;
    prove(&draft.0, path, upstream)?;
    print!("{}", difference(path, &text, &new));
    if dry_run {
        return Ok(());
    }
    std::fs::rename(&draft.0, &place).map_err(|error| failed("cannot be replaced", &error))?;
    if let Ok(directory) = std::fs::File::open(directory) {
        // the rename is done; only a power cut at this moment would still undo it
        drop(directory.sync_all());
    }
    eprintln!(
        "written; a running exeat takes it over by itself, or at once with SIGHUP; undo it with `--to observe --until DATE` or `--to enforce`"
    );
    Ok(())
}

/// A file that goes again, unless it has been renamed.
struct Draft(PathBuf);

impl Draft {
    fn write(&self, text: &str, like: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&self.0)?;
        let old = std::fs::metadata(like)?;
        std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(old.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // after the rename there is none
        drop(std::fs::remove_file(&self.0));
    }
}

/// The edit changed this stage and nothing else.
fn prove(draft: &Path, path: &Path, upstream: &Upstream) -> Result<(), String> {
    let read = |path: &Path| config::load(path, &SystemClock).map_err(|mistakes| lines(&mistakes));
    let (new, old) = (read(draft)?, read(path)?);
    let without_stage = |loaded: &config::Loaded| {
        let told = |one: &Arc<Upstream>| {
            if one.name == upstream.name {
                format!("{:?}", Upstream { stage: Stage::Enforce, ..(**one).clone() })
            } else {
                format!("{one:?}")
            }
        };
        let upstreams: Vec<String> = loaded.catalogue.all().iter().map(told).collect();
        format!("{:?} {upstreams:?} {:?} {:?}", loaded.config, loaded.profiles, loaded.policies.len())
    };
    if without_stage(&new) == without_stage(&old) {
        Ok(())
    } else {
        Err("the edit would change more than the stage; nothing was written: edit the file by hand".to_owned())
    }
}

/// The lines that change, as a diff without context.
fn difference(path: &Path, old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let tail = old.iter().skip(same).rev().zip(new.iter().skip(same).rev()).take_while(|(old, new)| old == new).count();
    let (gone, come) = (old.len() - same - tail, new.len() - same - tail);
    let mut text = format!("--- {0}\n+++ {0}\n@@ -{1},{gone} +{1},{come} @@\n", path.display(), same + 1);
    for (mark, line) in
        old.iter().skip(same).take(gone).map(|line| ('-', line)).chain(new.iter().skip(same).take(come).map(|line| ('+', line)))
    {
        let _written = writeln!(text, "{mark}{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_that_change_are_shown() {
        let shown = difference(Path::new("exeat.yaml"), "a\nb\nc\nd\n", "a\nx\nd\n");
        assert_eq!(shown, "--- exeat.yaml\n+++ exeat.yaml\n@@ -2,2 +2,1 @@\n-b\n-c\n+x\n");
        assert_eq!(difference(Path::new("e"), "a\n", "a\n"), "--- e\n+++ e\n@@ -2,0 +2,0 @@\n");
    }

    #[test]
    fn a_moment_is_nothing_but_a_moment() {
        assert_eq!(moment("2026-12-20").unwrap(), "2026-12-20");
        for wrong in ["2026-12-20 } }, x: {", "soon", "7d", "2026-12-45"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
