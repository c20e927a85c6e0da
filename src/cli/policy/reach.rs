//! `exeat policy who-can` and `what-can`: exact answers from the rules' selectors; conditions, windows and ends are named beside them.

use std::fmt::Write as _;
use std::process::ExitCode;

use http::{Method, Request, Uri};
use serde_json::json;

use super::world::{World, moment, usage};
use crate::action::Action;
use crate::capture::{Destination, Host, Scheme};
use crate::catalogue::{Stage, Upstream};
use crate::cli::args::ConfigArg;
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::policy::{Access, Area, who_and_what};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WhoCanArgs {
    /// The method.
    method: String,
    /// The URL as a client asks for it.
    url: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WhatCanArgs {
    /// The workload.
    #[arg(value_name = "SPIFFE-ID")]
    workload: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigArg,
    /// When: a date or an RFC 3339 time. Default: now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn who_can(args: &WhoCanArgs) -> ExitCode {
    let (world, at) = match ground(&args.common) {
        Ok(ground) => ground,
        Err(code) => return code,
    };
    match WhoCan::ask(&world, &args.method, &args.url, at) {
        Ok(answer) if args.common.json => println!("{:#}", answer.json()),
        Ok(answer) => print!("{}", answer.text(&world, at)),
        Err(why) => return usage(&why),
    }
    ExitCode::SUCCESS
}

pub(super) fn what_can(args: &WhatCanArgs) -> ExitCode {
    let (world, at) = match ground(&args.common) {
        Ok(ground) => ground,
        Err(code) => return code,
    };
    let id = match SpiffeId::parse(&args.workload) {
        Ok(id) => id,
        Err(error) => return usage(&format!("`{}` is no workload: {error}", args.workload)),
    };
    let found = who_and_what(&world.set, &world.loaded.catalogue, &Area::workload(&id), at);
    if args.common.json {
        println!(
            "{:#}",
            json!({ "workload": id.to_string(), "time": at.to_string(), "access": found, "observed": observed_json(&world, at) })
        );
    } else {
        print!("{}", what_text(&world, &id, &found, at));
    }
    ExitCode::SUCCESS
}

fn ground(common: &Common) -> Result<(World, Timestamp), ExitCode> {
    let at = moment(common.at.as_deref())?;
    Ok((World::load(&common.config.config)?, at))
}

/// The answer, for each reading of the path.
struct WhoCan {
    asked: String,
    upstream: String,
    readings: Vec<(String, Vec<Access>)>,
}

impl WhoCan {
    fn ask(world: &World, method: &str, url: &str, at: Timestamp) -> Result<Self, String> {
        let (destination, uri) = destination(url)?;
        let upstream = world
            .loaded
            .catalogue
            .find(&destination)
            .ok_or_else(|| format!("{destination} is no origin of any upstream: nobody can, unless `unlisted` is observed"))?;
        let wrong = || format!("`{method}` is no method");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong())?;
        let path = uri.path().to_owned();
        let (parts, ()) = Request::builder().method(method.clone()).uri(path.clone()).body(()).map_err(|_| wrong())?.into_parts();
        let action = Action::read(&parts).map_err(|refusal| format!("nobody can: {}", refusal.detail))?;
        let reach = |path: &str| who_and_what(&world.set, &world.loaded.catalogue, &Area::request(upstream.index, &method, path), at);
        let readings = action.path.iter().map(|path| (path.to_owned(), reach(path))).collect();
        Ok(Self { asked: format!("{method} {destination}{path}"), upstream: upstream.name.to_string(), readings })
    }

    fn json(&self) -> serde_json::Value {
        let readings: Vec<_> = self.readings.iter().map(|(path, access)| json!({ "path": path, "access": access })).collect();
        json!({ "asked": self.asked, "upstream": self.upstream, "readings": readings })
    }

    fn text(&self, world: &World, at: Timestamp) -> String {
        let mut text = format!("{} (upstream {})\n", self.asked, self.upstream);
        if self.readings.len() > 1 {
            text.push_str("the path has several readings; all of them must be allowed, by one rule:\n");
        }
        for (path, found) in &self.readings {
            if self.readings.len() > 1 {
                let _written = writeln!(text, "as {path}");
            }
            if found.is_empty() {
                text.push_str("  nobody\n");
            }
            for access in found {
                for who in &access.who {
                    let _written = writeln!(text, "  {who}");
                }
                terms(&mut text, access);
            }
        }
        text.push_str(&observed(world, at, |upstream| *upstream.name == *self.upstream));
        text
    }
}

fn destination(url: &str) -> Result<(Destination, Uri), String> {
    let wrong = |why: &str| format!("`{url}` is no URL: {why}, as in https://api.payments.example/v1/charges");
    let uri: Uri = url.parse().map_err(|_| wrong("it cannot be read"))?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        Some(_) | None => return Err(wrong("it begins with https:// or http://")),
    };
    let host = Host::parse(uri.host().unwrap_or_default()).map_err(|error| wrong(&error.to_string()))?;
    Ok((Destination { scheme, host, port: uri.port_u16().unwrap_or_else(|| scheme.default_port()) }, uri))
}

fn what_text(world: &World, id: &SpiffeId, found: &[Access], at: Timestamp) -> String {
    let mut text = format!("{id}\n");
    if found.is_empty() {
        text.push_str("  nothing\n");
    }
    for access in found {
        let what = if access.tunnel { "a tunnel".to_owned() } else { format!("{} {}", access.methods, access.paths.join(", ")) };
        let _written = writeln!(text, "  {}: {what}", access.upstream);
        terms(&mut text, access);
    }
    text.push_str(&observed(world, at, |_| true));
    text
}

/// The rule, and what stands beside its selector.
fn terms(text: &mut String, access: &Access) {
    let _written = writeln!(text, "      by {} at {}, with {}", access.rule, access.at, access.grant);
    for when in &access.when {
        let _written = writeln!(text, "      {when}");
    }
    for only in &access.only {
        let _written = writeln!(text, "      only when {only}");
    }
    for except in &access.except {
        let _written = writeln!(text, "      except {except}");
    }
    if let Some(until) = access.until {
        let _written = writeln!(text, "      until {until}");
    }
}

fn until(upstream: &Upstream, at: Timestamp) -> Option<Timestamp> {
    match upstream.stage {
        Stage::Observe { until, .. } if at < until => Some(until),
        Stage::Observe { .. } | Stage::Enforce => None,
    }
}

fn observed(world: &World, at: Timestamp, which: impl Fn(&Upstream) -> bool) -> String {
    let all = world.loaded.catalogue.all().iter().filter(|upstream| which(upstream));
    let line = |(name, until): (&str, Timestamp)| {
        format!("upstream {name} is observed until {until}: everybody's requests pass as they came, except what a floor denies\n")
    };
    all.filter_map(|upstream| Some((&*upstream.name, until(upstream, at)?))).map(line).collect()
}

fn observed_json(world: &World, at: Timestamp) -> Vec<serde_json::Value> {
    let all = world.loaded.catalogue.all().iter();
    all.filter_map(|upstream| Some(json!({ "upstream": &*upstream.name, "until": until(upstream, at)?.to_string() }))).collect()
}
