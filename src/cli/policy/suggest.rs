//! `exeat policy suggest`: the least rules that would have let recorded traffic through, as a policy file to be read and signed.
//!
//! The file goes to stdout (or `--output`), what is to be said about it to stderr.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::replay::compiled;
use super::world::{World, complaints, from_flags, lines, refused};
use super::{log, unused};
use crate::audit::Entry;
use crate::cli::args::{ConfigArg, USAGE};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::evidence::{Draft, Lessons, Questions, Scope, Terms, Verified};
use crate::policy::IdentityPattern;
use crate::written::{Diagnostic, Report};

/// Fewer days do not hold a whole week.
const LEAST_DAYS: i64 = 7;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(in crate::cli) struct SuggestArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// An audit log: a file, or a directory of segments. Default: the configuration's own; may be repeated.
    #[arg(long, value_name = "PATH")]
    audit: Vec<PathBuf>,
    /// Only requests of this time: `14d`, a date, or an RFC 3339 time.
    #[arg(long, value_name = "WHEN", default_value = "14d")]
    since: String,
    /// Only these workloads: a SPIFFE ID or a pattern; may be repeated.
    #[arg(long, value_name = "SPIFFE-ID")]
    workload: Vec<String>,
    /// Only these upstreams; may be repeated.
    #[arg(long, value_name = "NAME")]
    upstream: Vec<String>,
    /// Who answers for the rules. Default: each upstream's owner.
    #[arg(long)]
    owner: Option<String>,
    /// The policy's name.
    #[arg(long, default_value = "suggested")]
    name: String,
    /// `**` may stand for what is beneath an id, where its depth varies.
    #[arg(long)]
    allow_rest: bool,
    /// Learn from fewer than seven days: what only happens weekly will be missing.
    #[arg(long)]
    short_window: bool,
    /// Write the policy file there and not to stdout.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Policy and report as one JSON document.
    #[arg(long)]
    json: bool,
    /// Suggest nothing new: name the rules that no record of the window names.
    #[arg(long, conflicts_with_all = ["owner", "name", "allow_rest", "short_window", "output"])]
    unused: bool,
}

impl SuggestArgs {
    fn scope(&self, world: &World) -> Result<Scope, String> {
        let workload = |text: &String| IdentityPattern::parse(text).map_err(|error| format!("--workload {text}: {error}"));
        let names: Vec<&str> = world.loaded.catalogue.all().iter().map(|upstream| &*upstream.name).collect();
        let mut report = Report::new(from_flags(&serde_json::Value::Null));
        for wrong in self.upstream.iter().filter(|name| !names.contains(&name.as_str())) {
            report.unknown_name(crate::written::Place::START, "upstream", wrong, &names);
        }
        if report.failed() {
            return Err(complaints(report));
        }
        Ok(Scope {
            workloads: self.workload.iter().map(workload).collect::<Result<_, _>>()?,
            upstreams: self.upstream.iter().map(|name| name.as_str().into()).collect(),
        })
    }
}

/// Why there is no suggestion.
enum Failed {
    Usage(String),
    Failure(String),
    Mistakes(Vec<Diagnostic>),
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Failure(why)
    }
}

pub(super) fn suggest(args: &SuggestArgs) -> ExitCode {
    let world = match World::load(&args.config.config) {
        Ok(world) => world,
        Err(code) => return code,
    };
    let now = SystemClock.now();
    let done = if args.unused { list_unused(args, &world, now) } else { write(args, &world, now) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failed::Usage(why)) => {
            eprintln!("exeat: {why}");
            ExitCode::from(USAGE)
        }
        Err(Failed::Failure(why)) => {
            eprintln!("exeat: {why}");
            ExitCode::FAILURE
        }
        Err(Failed::Mistakes(mistakes)) => {
            eprintln!("exeat: the suggestion does not load, which is a bug; nothing was written\n{}", lines(&mistakes));
            refused(&[])
        }
    }
}

fn write(args: &SuggestArgs, world: &World, now: Timestamp) -> Result<bool, Failed> {
    let (draft, verified) = draft(args, world, now)?;
    let text = draft.text(Some(&verified));
    let report = draft.report(&verified);
    if args.json {
        println!("{:#}", draft.to_json(&verified));
    } else if let Some(path) = &args.output {
        std::fs::write(path, text).map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?;
        eprint!("{report}");
    } else {
        print!("{text}");
        eprint!("{report}");
    }
    Ok(verified.is_whole())
}

fn draft(args: &SuggestArgs, world: &World, now: Timestamp) -> Result<(Draft, Verified), Failed> {
    let scope = args.scope(world).map_err(Failed::Usage)?;
    let since = log::since(&args.since, now).map_err(Failed::Usage)?;
    let paths = log::paths(&args.audit, &world.loaded.config)?;
    let catalogue = &world.loaded.catalogue;
    let mut questions = Questions::new(catalogue).ok_or_else(|| "the rules of `strip` cannot be read".to_owned())?;
    let mut lessons = Lessons::default();
    log::each(&paths, Some(since), |line| match &line.entry {
        Entry::Access(record) if scope.holds(record) => lessons.add(&questions, line.time, record).map_err(|full| full.to_string()),
        Entry::Access(_) | Entry::Event(_) | Entry::Other => Ok(()),
    })?;
    if lessons.seen.count == 0 {
        return Err(Failed::Failure(
            "no request that passed is in this window: nothing can be learnt; is the upstream in stage `observe`?".into(),
        ));
    }
    let days = lessons.days();
    if days < LEAST_DAYS && !args.short_window {
        let seen = lessons.seen.sentence();
        return Err(Failed::Failure(format!(
            "the traffic spans {days} of the {LEAST_DAYS} days that a suggestion needs ({seen}): what only happens weekly would be refused later; \
             observe longer, or say --short-window and read the suggestion as a sketch"
        )));
    }
    let terms = Terms { name: args.name.clone(), owner: args.owner.clone(), rest: args.allow_rest, now };
    let draft = Draft::new(lessons, catalogue, terms);
    let set = compiled(&world.loaded, &draft.text(None), now).map_err(Failed::Mistakes)?;
    let mut verified = Verified::default();
    log::each(&paths, Some(since), |line| {
        if let Entry::Access(record) = &line.entry
            && scope.holds(record)
        {
            verified.add(&mut questions, &set, &draft, line.time, record);
        }
        Ok(())
    })?;
    Ok((draft, verified))
}

fn list_unused(args: &SuggestArgs, world: &World, now: Timestamp) -> Result<bool, Failed> {
    let since = log::since(&args.since, now).map_err(Failed::Usage)?;
    let unused = unused::find(&log::paths(&args.audit, &world.loaded.config)?, since, &world.set)?;
    if args.json {
        let rows = unused.rules.iter().map(|rule| serde_json::json!({ "rule": &*rule.id, "at": &*rule.place, "owner": &*rule.owner }));
        println!("{:#}", serde_json::json!({ "records": unused.records, "rules": world.set.len(), "unused": rows.collect::<Vec<_>>() }));
        return Ok(true);
    }
    let mut text = String::new();
    let _written = writeln!(text, "{} records, {} rules, {} of them named by none", unused.records, world.set.len(), unused.rules.len());
    for rule in &unused.rules {
        let _written = writeln!(text, "  {} at {} (owner {})", rule.id, rule.place, rule.owner);
    }
    print!("{text}");
    Ok(true)
}
