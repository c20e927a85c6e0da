//! Did you mean: the nearest of the known words.

/// The known word nearest to a wrong one, if any is near: did you mean?
#[must_use]
pub fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // longer words are not compared: the work is quadratic, and nobody mistypes a thing of 64 characters by one
    let wrong: Vec<char> = wrong.chars().take(65).collect();
    if wrong.len() > 64 {
        return None;
    }
    let reach = (wrong.len() / 3).max(1);
    known
        .into_iter()
        // no distance is shorter than the difference of the lengths
        .filter(|word| word.chars().count().abs_diff(wrong.len()) <= reach)
        .map(|word| (distance(&wrong, word), word))
        .filter(|(far, _)| *far <= reach)
        .min_by_key(|(far, _)| *far)
        .map(|(_, word)| word)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, and neighbours that changed places.
fn distance(left: &[char], right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.iter().enumerate() {
        let mut here = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let cell = |line: &[usize], at: usize| line.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = (cell(&above, column) + usize::from(a != b)).min(cell(&above, column + 1) + 1).min(cell(&here, column) + 1);
            let swapped = row > 0 && column > 0 && left.get(row - 1) == Some(b) && right.get(column - 1) == Some(a);
            if swapped {
                best = best.min(cell(&before, column - 1) + 1);
            }
            here.push(best);
        }
        before = std::mem::replace(&mut above, here);
    }
    above.last().copied().unwrap_or_default()
}
