//! What one request's walk costs: the figures of the certificate, for a request that is at hand.

use super::request::AccessRequest;
use super::set::PolicySet;
use super::trie::Cost;
use crate::action::segments;

impl PolicySet {
    /// Nodes visited, rules looked at and conditions that may have to be evaluated, for all readings of the path together.
    #[must_use]
    pub(super) fn cost_of(&self, request: &AccessRequest<'_>) -> Cost {
        let method = self.methods.bit(request.action.method);
        let mut cost = Cost::default();
        for path in request.action.path.iter() {
            let path = self.index.paths.segments(segments(path));
            self.index.each_root(&request.workload.id, request.upstream.index.0, &mut |root| {
                cost.nodes += self.index.paths.visited(root, &path);
                self.index.paths.walk(root, &path, &mut |list| {
                    cost.postings += list.len() as u64;
                    let asked = list.iter().filter(|posting| posting.methods & method.0 != 0);
                    let conditional = asked.filter_map(|posting| self.rules.get(posting.rule as usize)?.condition);
                    cost.conditions += conditional.count() as u64;
                });
            });
        }
        cost
    }
}
