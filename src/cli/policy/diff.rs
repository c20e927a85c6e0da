//! `exeat policy diff`: who gains and who loses what between two rule sets. Exit code 0; with `--fail-on-gain` 1 when anybody may be able to do
//! more than before.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::world::{World, moment, refused, usage};
use crate::clock::{SystemClock, Timestamp};
use crate::config;
use crate::policy::{self, Change, Side};
use crate::written::Diagnostic;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DiffArgs {
    /// Two configuration files; or, with `-c`, two policy directories.
    #[arg(value_name = "A B", num_args = 0..=2)]
    paths: Vec<PathBuf>,
    /// The configuration whose upstreams and credentials both sides use.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that would stand in place of the configuration's own policies.
    #[arg(long, value_name = "DIR", requires = "config", conflicts_with = "paths")]
    policies: Option<PathBuf>,
    /// Exit with 1 when anybody may be able to do more than before.
    #[arg(long)]
    fail_on_gain: bool,
    /// When: a date or an RFC 3339 time. Default: now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn diff(args: &DiffArgs) -> ExitCode {
    let at = match moment(args.at.as_deref()) {
        Ok(at) => at,
        Err(code) => return code,
    };
    let sides = match (&*args.paths, &args.config, &args.policies) {
        ([before, after], None, None) => {
            World::read(before, &SystemClock).and_then(|before| Ok((before, World::read(after, &SystemClock)?)))
        }
        ([before, after], Some(config), None) => under(config, before).and_then(|before| Ok((before, under(config, after)?))),
        ([], Some(config), Some(policies)) => World::read(config, &SystemClock).and_then(|before| Ok((before, under(config, policies)?))),
        _ => return usage("name two configuration files; or `-c FILE` and two policy directories; or `-c FILE --policies DIR`"),
    };
    let (before, after) = match sides {
        Ok(sides) => sides,
        Err(mistakes) => return refused(&mistakes),
    };
    let changes = changes(&before, &after, at);
    let widened = changes.iter().any(|change| change.kind.widens());
    if args.json {
        println!("{:#}", json!({ "widened": widened, "changes": changes.iter().map(as_json).collect::<Vec<_>>() }));
    } else {
        print!("{}", text(&changes));
    }
    if widened && args.fail_on_gain { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The configuration with the policies of a directory, which no bounds hold: what is compared is what they say.
fn under(config: &Path, policies: &Path) -> Result<World, Vec<Diagnostic>> {
    let loaded = config::load(config, &SystemClock)?;
    World::compile(config::Loaded { policies: config::policies_in(policies)?, ..loaded }, &SystemClock)
}

fn changes(before: &World, after: &World, at: Timestamp) -> Vec<Change> {
    let side = |world| -> Side<'_> {
        let world: &World = world;
        Side { set: &world.set, catalogue: &world.loaded.catalogue }
    };
    policy::diff(side(before), side(after), at)
}

fn as_json(change: &Change) -> serde_json::Value {
    let mut value = json!(change);
    if let Some(value) = value.as_object_mut() {
        value.insert("sentence".to_owned(), change.to_string().into());
        value.insert("widens".to_owned(), change.kind.widens().into());
    }
    value
}

/// What widens first; under each sentence who is meant, and by which rule.
fn text(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nobody gains or loses anything\n".to_owned();
    }
    let one = |change: &Change| {
        let mark = if change.kind.widens() { '+' } else { '-' };
        let who = change.who.iter().filter(|_| change.counted).fold(String::new(), |text, who| text + "    " + who + "\n");
        let rule = if change.rule.is_empty() { String::new() } else { format!("    by {}\n", change.rule) };
        format!("{mark} {change}\n{who}{rule}")
    };
    changes.iter().map(one).collect()
}
