//! `exeat policy replay`: recorded traffic decided again by a candidate set of rules; what changes, what hurts first.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::log;
use super::world::{World, refused};
use crate::audit::{Entry, shown};
use crate::catalogue::Catalogue;
use crate::cli::args::ConfigArg;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{self, Loaded};
use crate::evidence::{Change, Kind, Questions, Replay, Tally};
use crate::policy::{Bounds, PolicyFile, PolicySet, Which};
use crate::written::{Diagnostic, Source};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Leases and limits are not asked again: no record tells what they held, so a rule that wants them counts as if they were there."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(in crate::cli) struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Audit logs: files, or directories of segments. Default: the configuration's own.
    audit: Vec<PathBuf>,
    /// The rules to decide by: a directory of policy files. Default: those of the configuration.
    #[arg(long, value_name = "DIR")]
    candidate: Option<PathBuf>,
    /// The candidate comes on top of the configuration's rules, not in their place.
    #[arg(long, requires = "candidate")]
    add: bool,
    /// Shadow rules count as if they were in force.
    #[arg(long)]
    shadow: bool,
    /// Only requests of this time: `14d`, a date, or an RFC 3339 time.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Exit with 0 although something that was allowed would be denied.
    #[arg(long)]
    allow_changes: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn replay(args: &ReplayArgs) -> ExitCode {
    let world = match candidate(args) {
        Ok(world) => world,
        Err(mistakes) => return refused(&mistakes),
    };
    let which = if args.shadow { Which::WithShadow } else { Which::InForce };
    match run(args, &world, which) {
        Ok(replay) => {
            if args.json {
                println!("{:#}", document(&replay));
            } else {
                print!("{}", page(&replay, world.set.shadows(), which));
            }
            if replay.count(Kind::Lost) > 0 && !args.allow_changes { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(why) => {
            eprintln!("exeat: {why}");
            ExitCode::FAILURE
        }
    }
}

fn candidate(args: &ReplayArgs) -> Result<World, Vec<Diagnostic>> {
    let Some(path) = &args.candidate else { return World::read(&args.config.config, &SystemClock) };
    let mut loaded: Loaded = config::load(&args.config.config, &SystemClock)?;
    let broken = std::mem::take(&mut loaded.policy_errors);
    let mut files = config::policies_in(path)?;
    if args.add {
        if !broken.is_empty() {
            return Err(broken);
        }
        files.splice(0..0, std::mem::take(&mut loaded.policies));
    }
    World::compile(Loaded { policies: files, ..loaded }, &SystemClock)
}

fn run(args: &ReplayArgs, world: &World, which: Which) -> Result<Replay, String> {
    let paths = log::paths(&args.audit, &world.loaded.config)?;
    let since = args.since.as_deref().map(|text| log::since(text, SystemClock.now())).transpose()?;
    decide(&paths, since, &world.loaded.catalogue, &world.set, which)
}

fn decide(paths: &[PathBuf], since: Option<Timestamp>, catalogue: &Catalogue, set: &PolicySet, which: Which) -> Result<Replay, String> {
    let mut questions = Questions::new(catalogue).ok_or("the rules of `strip` cannot be read")?;
    let mut replay = Replay::default();
    log::each(paths, since, |line| {
        if let Entry::Access(record) = &line.entry {
            replay.add(&mut questions, set, which, line.time, record);
        }
        Ok(())
    })?;
    Ok(replay)
}

/// For people.
fn page(replay: &Replay, shadows: usize, which: Which) -> String {
    let mut text = String::new();
    let (decided, same, other) = (replay.decided, replay.same, replay.other_rule);
    let _written = writeln!(text, "replayed   {decided} requests: {same} as before, {other} as before by another rule");
    for (why, count) in &replay.skipped {
        let _written = writeln!(text, "left out   {count}: {}", shown(why));
    }
    for kind in [Kind::Lost, Kind::Undecided, Kind::Gained, Kind::OtherCode] {
        let count = replay.count(kind);
        if count == 0 {
            continue;
        }
        let _written = writeln!(text, "\n{}: {count}", kind.name());
        for (change, tally) in replay.changes.iter().filter(|(change, _)| change.kind == kind) {
            write(&mut text, change, tally);
        }
        if let Some(more) = replay.more.get(&kind) {
            let _written = writeln!(text, "  and {more} more requests in groups that are not listed");
        }
    }
    if replay.count(Kind::Lost) > 0 && shadows > 0 && which == Which::InForce {
        let _written = writeln!(text, "\n{shadows} rules of the candidate are `mode: shadow` and decide nothing; --shadow counts them");
    }
    text
}

fn write(text: &mut String, change: &Change, tally: &Tally) {
    let line = format!("{} {} {} {}", change.workload, change.upstream, change.method, change.path);
    let _written = writeln!(text, "  {}", shown(&line));
    let _written = writeln!(text, "      {}", tally.sentence());
    let _written = writeln!(text, "      before {}; then {}", shown(&change.before.line()), shown(&change.after.line()));
    let _written = writeln!(text, "      traces {}", shown(&tally.traces.join(" ")));
}

/// For programs.
fn document(replay: &Replay) -> Value {
    let change = |(change, tally): (&Change, &Tally)| {
        json!({
            "kind": change.kind.name(), "workload": change.workload, "upstream": change.upstream, "method": change.method, "path": change.path,
            "before": change.before.line(), "after": change.after.line(), "evidence": tally.to_json(),
        })
    };
    let more: serde_json::Map<_, _> = replay.more.iter().map(|(kind, count)| (kind.name().to_owned(), (*count).into())).collect();
    json!({
        "decided": replay.decided, "same": replay.same, "other_rule": replay.other_rule, "skipped": replay.skipped,
        "allow_to_deny": replay.count(Kind::Lost), "deny_to_allow": replay.count(Kind::Gained), "undecided": replay.count(Kind::Undecided),
        "changes": replay.changes.iter().map(change).collect::<Vec<_>>(), "not_listed": more,
    })
}

/// The rules of a text alone, for a draft.
pub(super) fn compiled(loaded: &Loaded, text: &str, now: Timestamp) -> Result<PolicySet, Vec<Diagnostic>> {
    let file = PolicyFile { source: Source::new("suggestion", text), bounds: Bounds::All };
    let profiles = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
    crate::policy::compile(&[file], &loaded.catalogue, &profiles, &loaded.config.trust_domain, now).map(|(set, _)| set)
}
