//! Policy files of somebody who wants the load to take for ever, or to take memory without end. The tests show that each is refused;
//! `cargo bench --bench policy` includes this file and shows how quickly.

/// The files, each with what it attacks; their rules are about an upstream of that name.
pub(crate) fn files(upstream: &str) -> Vec<(&'static str, String)> {
    let many = |count: usize, text: &str| text.repeat(count);
    let head = "exeat: policy/v1\nname: a\nrules:\n";
    let rules = |rules: &str| {
        let defaults =
            format!("owner: o@example.com, reason: r, expires: 2027-03-01, from: [\"spiffe://prod.example/a\"], to: [{upstream}]");
        format!("exeat: policy/v1\nname: a\ndefaults: {{ {defaults} }}\nrules:\n{rules}")
    };
    let condition = |text: &str| rules(&format!("  - id: r\n    effect: deny\n    when: \"{text}\"\n"));
    vec![
        ("nested lists", format!("{head}  - {}", many(100_000, "["))),
        ("aliases of aliases", format!("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n{head}")),
        ("a file of 9 MiB", format!("{head}# {}\n", many(9 * 1024 * 1024, "x"))),
        ("open parentheses", condition(&many(1000, "("))),
        ("nested parentheses", condition(&format!("{}true{}", many(60, "("), many(60, ")")))),
        ("a long selection", condition(&format!("request{} == 'a'", many(1000, ".a")))),
        ("negations", condition(&format!("{}true", many(2000, "!")))),
        ("comparisons", condition(&format!("true{}", many(300, " == true")))),
        ("conditionals", condition(&many(100, "request.port == 1 ? true : "))),
        ("repetitions of repetitions", condition("request.path.matches('(([ab]{1,30}){1,30}){1,30}')")),
        ("an automaton of 2^25 states", condition("request.path.matches('[ab]*a[ab]{25}')")),
        ("a condition of 2 MiB", condition(&many(300_000, "true && "))),
    ]
}
