//! Shapes against the patterns that they come from: a difference holds exactly what the one matches and the other does not.

use proptest::prelude::*;

use super::region::{Region, without};
use super::shape::Shape;
use crate::action::segments;
use crate::identity::SpiffeId;
use crate::policy::pattern::{IdentityPattern, PathPattern};

fn pattern() -> impl Strategy<Value = String> {
    let segment = proptest::sample::select(&["a", "b", "c", "*"][..]);
    (proptest::collection::vec(segment, 0..4), proptest::sample::select(&["", "**", "/"][..])).prop_map(|(segments, end)| {
        let mut text = format!("/{}", segments.join("/"));
        match end {
            "**" => text.push_str(if segments.is_empty() { "**" } else { "/**" }),
            "/" if !segments.is_empty() => text.push('/'),
            _ => {}
        }
        text
    })
}

fn path() -> impl Strategy<Value = String> {
    let segment = proptest::sample::select(&["a", "b", "c", "d", "x"][..]);
    (proptest::collection::vec(segment, 0..5), any::<bool>())
        .prop_map(|(segments, slash)| format!("/{}{}", segments.join("/"), if slash && !segments.is_empty() { "/" } else { "" }))
}

fn holds(shape: &Shape, path: &str) -> bool {
    shape.meet(&Shape::exactly(segments(path))).is_some()
}

fn parsed(text: &str) -> (PathPattern, Shape) {
    let pattern = PathPattern::parse(text).unwrap();
    let shape = Shape::path(&pattern);
    (pattern, shape)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_is_exact((one, two, three) in (pattern(), pattern(), pattern()), paths in proptest::collection::vec(path(), 30)) {
        let ((one, first), (two, second), (three, third)) = (parsed(&one), parsed(&two), parsed(&three));
        let left: Vec<Shape> = first.minus(&second).iter().flat_map(|part| part.minus(&third)).collect();
        for path in &paths {
            let wanted = one.matches(path) && !two.matches(path) && !three.matches(path);
            let holding = left.iter().filter(|part| holds(part, path)).count();
            prop_assert_eq!(holding, usize::from(wanted), "{} - {} - {} at {}: {:?}", one, two, three, path, left);
            prop_assert_eq!(holds(&first, path), one.matches(path));
        }
        for part in &left {
            let witness = part.witness("prod.example");
            prop_assert!(one.matches(&witness) && !two.matches(&witness) && !three.matches(&witness), "{} is no witness of {}", witness, part);
        }
        prop_assert_eq!(first.includes(&second), one.includes(&two) , "{} {}", one, two);
    }
}

#[test]
fn identities_are_whole_names() {
    let shape = |text: &str| Shape::identity(&IdentityPattern::parse(text).unwrap());
    let everyone = shape("**");
    let left = everyone.minus(&shape("spiffe://prod.example/**"));
    assert_eq!(left.iter().map(ToString::to_string).collect::<Vec<_>>(), ["spiffe://{not prod.example}/**"]);
    let witness = left[0].witness("prod.example");
    assert!(SpiffeId::parse(&witness).is_ok() && !witness.contains("prod"), "{witness}");
    assert_eq!(shape("spiffe://prod.example/**").witness("prod.example"), "spiffe://prod.example/x");
    assert!(everyone.minus(&everyone).is_empty());
    let billing = shape("spiffe://prod.example/ns/billing/**").minus(&shape("spiffe://prod.example/ns/billing/sa/*"));
    assert_eq!(
        billing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "spiffe://prod.example/ns/billing",
            "spiffe://prod.example/ns/billing/*",
            "spiffe://prod.example/ns/billing/*/*/*/**",
            "spiffe://prod.example/ns/billing/{not sa}/*"
        ]
    );
}

#[test]
fn a_product_is_cut_along_each_side() {
    let region = |from: &str, methods: u64, path: &str| Region {
        from: Shape::identity(&IdentityPattern::parse(from).unwrap()),
        methods,
        path: Shape::path(&PathPattern::parse(path).unwrap()),
    };
    let whole = region("spiffe://d/ns/*", 0b11, "/a/*");
    let parts = whole.minus(&region("spiffe://d/ns/x", 0b01, "/a/b"));
    let shown: Vec<String> = parts.iter().map(|part| format!("{} {:b} {}", part.from, part.methods, part.path)).collect();
    assert_eq!(shown, ["spiffe://d/ns/{not x} 11 /a/*", "spiffe://d/ns/x 10 /a/*", "spiffe://d/ns/x 1 /a/{not b}"]);
    assert!(without(vec![whole.clone()], std::iter::once(&region("**", 0b111, "/**"))).is_empty());
    assert!(whole.includes(&parts[0]) && !parts[0].includes(&whole));
}
