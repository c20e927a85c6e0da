//! `exeat schema config|policy|policytest`: JSON Schemas for editors; the first line of a file names one:
//! `# yaml-language-server: $schema=PATH`.

use std::process::ExitCode;

use super::args::Schema;

pub(super) fn schema(of: Schema) -> ExitCode {
    println!("{}", text(of));
    ExitCode::SUCCESS
}

fn text(of: Schema) -> String {
    let schema = match of {
        Schema::Config => crate::config::schema(),
        Schema::PolicyTest => serde_json::Value::from(schemars::schema_for!(crate::policy::TestDocument)),
        Schema::Policy => serde_json::Value::from(schemars::schema_for!(crate::policy::Document)),
    };
    format!("{schema:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples name these files, and editors read them.
    #[test]
    fn the_schemas_beside_the_examples_are_those_of_this_binary() {
        for (of, name) in [(Schema::Config, "config"), (Schema::Policy, "policy"), (Schema::PolicyTest, "policytest")] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/schema/{name}.json"));
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(kept.trim_end() == text(of), "write it again: exeat schema {name} > config/schema/{name}.json");
        }
    }
}
