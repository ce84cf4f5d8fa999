//! How many requests run on one user token.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Keeps one token from taking all of the front door: somebody who forgets to end
/// watches keeps out only those who use the same token.
pub(crate) struct TokenQuota {
    limit: usize,
    /// By the id of the token; only those that have some.
    under_way: Mutex<HashMap<String, usize>>,
}

/// A request under way, as long as it lives.
#[must_use = "counts only while it lives"]
pub(crate) struct QuotaGuard {
    quota: Arc<TokenQuota>,
    token: String,
}

impl TokenQuota {
    /// `limit`: of requests on one token at a time.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            under_way: Mutex::default(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Counts a request in; `None` when the token has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, token: &str) -> Option<QuotaGuard> {
        let mut under_way = self.under_way.lock();
        let count = under_way.get(token).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        under_way.insert(token.to_owned(), count + 1);
        Some(QuotaGuard {
            quota: self.clone(),
            token: token.to_owned(),
        })
    }
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        let mut under_way = self.quota.under_way.lock();
        if let Some(count) = under_way.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_has_its_own_and_nothing_is_kept_of_one_that_is_not_in_use() {
        let quota = TokenQuota::new(2);
        let of = |token| quota.take(token);
        let (first, second) = (of("a"), of("a"));
        assert!(first.is_some() && second.is_some() && of("a").is_none());
        let other = of("b");
        assert!(other.is_some());
        drop(first);
        let third = of("a");
        assert!(third.is_some() && of("a").is_none());
        drop((second, third, other));
        assert!(quota.under_way.lock().is_empty());
    }
}
