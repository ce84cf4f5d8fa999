//! The agent's own credential, as fresh as it needs to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::credentials::{Auth, read_token};
use super::exec::{self, ExecPlugin};
use super::{KubeError, Secret};
use crate::net::{Cancel, Deadline, PemSource};
use crate::threads::{self, Stack};

/// What the agent shows of itself.
#[derive(Debug)]
pub(super) struct Shown {
    /// The value of `Authorization`.
    pub(super) authorization: Option<Secret>,
    /// A client certificate and its key, where a plug-in gave one: instead of the
    /// kubeconfig's.
    pub(super) client: Option<(PemSource, PemSource)>,
}

/// Yields the agent's own credential, read again when it is old. Clones share it.
///
/// A plug-in runs on a thread of its own, one at a time: those who need its
/// credential wait, each for as long as he can. One that fails is not started again
/// at once, whoever asks.
#[derive(Clone)]
pub(super) struct Authorizer(Arc<Shared>);

struct Shared {
    auth: Auth,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    /// A plug-in runs.
    running: bool,
    /// Why the latest run of it failed, and until when that stands.
    failed: Option<(String, Instant)>,
    /// How long the next failure will stand.
    pause: Duration,
}

struct Cached {
    shown: Arc<Shown>,
    since: Instant,
    good_until: Option<Instant>,
}

impl Authorizer {
    pub(super) fn new(auth: Auth) -> Self {
        Self(Arc::new(Shared {
            auth,
            state: Mutex::new(State {
                pause: FIRST_PAUSE,
                ..State::default()
            }),
            changed: Condvar::new(),
        }))
    }

    /// May wait for a plug-in, until `deadline` passes or `cancel` fires.
    pub(super) fn get(
        &self,
        deadline: Option<Deadline>,
        cancel: &Cancel,
    ) -> Result<Arc<Shown>, KubeError> {
        if let Some(shown) = self.0.state.lock().fresh() {
            return Ok(shown);
        }
        let (value, age) = match &self.0.auth {
            Auth::Exec(plugin) => return self.of_plugin(plugin, deadline, cancel),
            Auth::None => (None, None),
            Auth::Token(token) => (bearer(token), None),
            Auth::Basic { username, password } => {
                let pair = format!("{username}:{}", password.expose());
                let encoded = base64_simd::STANDARD.encode_to_string(pair);
                (Some(Secret::new(format!("Basic {encoded}"))), None)
            }
            Auth::TokenFile(path) => (bearer(&read_token(path)?), Some(TOKEN_AGE)),
        };
        let shown = Shown {
            authorization: value,
            client: None,
        };
        Ok(self.0.state.lock().cache(shown, age))
    }

    /// Forgets what is cached, after a 401; not the credential of a plug-in that has
    /// just run: it would say the same, and be started for each request.
    pub(super) fn refresh(&self) {
        let mut state = self.0.state.lock();
        let is_plugin = matches!(self.0.auth, Auth::Exec(_));
        if !is_plugin || state.cached.as_ref().is_some_and(Cached::is_old) {
            state.cached = None;
        }
    }

    fn of_plugin(
        &self,
        plugin: &ExecPlugin,
        deadline: Option<Deadline>,
        cancel: &Cancel,
    ) -> Result<Arc<Shown>, KubeError> {
        let failed = |why: String| KubeError::Exec {
            command: plugin.command.display().to_string(),
            why,
        };
        let waker = {
            let shared = self.0.clone();
            move || {
                // Whoever looked before the cancellation is waiting by now.
                drop(shared.state.lock());
                shared.changed.notify_all();
            }
        };
        let _guard = cancel
            .on_wake(Arc::new(waker))
            .map_err(|reason| failed(reason.to_string()))?;
        let deadline = deadline.unwrap_or_else(|| Deadline::after(2 * exec::LIMIT));
        let mut state = self.0.state.lock();
        loop {
            if let Some(shown) = state.fresh() {
                return Ok(shown);
            }
            if let Some((why, until)) = &state.failed
                && Instant::now() < *until
            {
                return Err(failed(why.clone()));
            }
            if let Some(reason) = cancel.reason() {
                return Err(failed(reason.to_string()));
            }
            if !state.running {
                self.start(plugin).map_err(failed)?;
                state.running = true;
            }
            let wait = self.0.changed.wait_until(&mut state, deadline.instant());
            if wait.timed_out() && state.running {
                return Err(failed("no credential in time".to_owned()));
            }
        }
    }

    fn start(&self, plugin: &ExecPlugin) -> Result<(), String> {
        let plugin = plugin.clone();
        let shared = self.0.clone();
        let started = threads::spawn("kube-exec", Stack::Work, move || {
            let mut run = Run {
                shared,
                outcome: None,
            };
            run.outcome = Some(exec::run(&plugin));
        });
        started.map(drop).map_err(|error| error.to_string())
    }
}

/// A plug-in that runs; tells everybody how it ended, also after a panic.
struct Run {
    shared: Arc<Shared>,
    outcome: Option<Result<exec::ExecCredential, String>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let mut state = self.shared.state.lock();
        state.running = false;
        match outcome.unwrap_or_else(|| Err("running it panicked".to_owned())) {
            Ok(credential) => {
                // A little early, so that it doesn't expire on the way; but one that
                // has expired already is no reason to ask for each request.
                let age = credential
                    .expires_in
                    .map(|left| left.saturating_sub(EXPIRY_MARGIN).max(LEAST_AGE));
                let shown = Shown {
                    authorization: credential.token.as_ref().and_then(bearer),
                    client: credential.client,
                };
                state.cache(shown, age);
                state.failed = None;
                state.pause = FIRST_PAUSE;
            }
            Err(why) => {
                state.failed = Some((why, Instant::now() + state.pause));
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl State {
    fn fresh(&self) -> Option<Arc<Shown>> {
        let cached = self.cached.as_ref()?;
        let good = cached.good_until.is_none_or(|until| Instant::now() < until);
        good.then(|| cached.shown.clone())
    }

    /// `age`: how long it may be used without looking again.
    fn cache(&mut self, shown: Shown, age: Option<Duration>) -> Arc<Shown> {
        let (shown, since) = (Arc::new(shown), Instant::now());
        self.cached = Some(Cached {
            shown: shown.clone(),
            since,
            good_until: age.and_then(|age| since.checked_add(age)),
        });
        shown
    }
}

impl Cached {
    fn is_old(&self) -> bool {
        self.since.elapsed() >= LEAST_AGE
    }
}

#[allow(clippy::unnecessary_wraps)] // what all its callers need
fn bearer(token: &Secret) -> Option<Secret> {
    Some(Secret::new(format!("Bearer {}", token.expose())))
}

/// Projected tokens live ten minutes or more and are replaced at 80 % of that;
/// client libraries read them about once a minute (config-and-state.md §9.1).
const TOKEN_AGE: Duration = Duration::from_secs(60);
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// What a plug-in has given is used for so long in any case.
const LEAST_AGE: Duration = Duration::from_secs(10);

/// A plug-in that failed is left alone for so long; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::kube::exec::tests::plugin;
    use crate::net::Reason;
    use crate::net::testing::far_deadline;

    fn value(authorizer: &Authorizer) -> String {
        let shown = authorizer.get(Some(far_deadline()), &Cancel::new());
        let shown = shown.expect("readable");
        shown
            .authorization
            .as_ref()
            .expect("a token")
            .expose()
            .to_owned()
    }

    /// Counts its runs in `count`.
    fn counting(count: &Path, rest: &str) -> Authorizer {
        let script = format!("echo run >> {}; {rest}", count.display());
        Authorizer::new(Auth::Exec(plugin(&script)))
    }

    fn runs(count: &Path) -> usize {
        fs::read_to_string(count)
            .unwrap_or_default()
            .lines()
            .count()
    }

    const GIVE: &str = r#"echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"2020-01-01T00:00:00Z"}}'"#;

    #[test]
    fn a_rotated_token_file_is_read_again_after_a_401() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        fs::write(&path, "one\n").expect("write");
        let authorizer = Authorizer::new(Auth::TokenFile(path.clone()));
        assert_eq!(value(&authorizer), "Bearer one");
        fs::write(&path, "two").expect("write");
        assert_eq!(value(&authorizer), "Bearer one", "cached");
        authorizer.refresh();
        assert_eq!(value(&authorizer), "Bearer two");
    }

    /// It was started for each request.
    #[test]
    fn a_broken_plug_in_is_left_alone_for_a_while() {
        let dir = tempfile::tempdir().expect("dir");
        let count = dir.path().join("count");
        let authorizer = counting(&count, "exit 7");
        let errors: Vec<String> = (0..20)
            .map(|_| {
                let error = authorizer.get(Some(far_deadline()), &Cancel::new());
                error.expect_err("broken").to_string()
            })
            .collect();
        assert!(errors.iter().all(|error| error.contains("exit status: 7")));
        assert!(runs(&count) < errors.len() / 2, "{}", runs(&count));
        let state = authorizer.0.state.lock();
        assert!(state.pause > FIRST_PAUSE && state.pause <= LONGEST_PAUSE);
    }

    #[test]
    fn neither_a_past_expiry_nor_a_401_starts_a_plug_in_for_each_request() {
        let dir = tempfile::tempdir().expect("dir");
        let count = dir.path().join("count");
        let authorizer = counting(&count, GIVE);
        for _ in 0..20 {
            assert_eq!(value(&authorizer), "Bearer t");
            authorizer.refresh();
        }
        assert!(runs(&count) < 10, "{}", runs(&count));
    }

    /// All waited for the lock that the first one held while the plug-in ran.
    #[test]
    fn who_cannot_wait_for_a_plug_in_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        let go = dir.path().join("go");
        let count = dir.path().join("count");
        let rest = format!(
            "while ! [ -e {} ]; do sleep 0.01; done; {GIVE}",
            go.display()
        );
        let authorizer = counting(&count, &rest);
        let soon = Some(Deadline::after(Duration::from_millis(1)));
        let late = authorizer.get(soon, &Cancel::new()).expect_err("too late");
        assert!(late.to_string().contains("in time"), "{late}");
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| authorizer.get(Some(far_deadline()), &cancel));
            cancel.cancel(Reason::Cancelled);
            waiting.join().expect("no panic").expect_err("cancelled");
            authorizer.get(None, &cancel).expect_err("cancelled before");
            // The others get what that one run gives.
            let others: Vec<_> = (0..4).map(|_| scope.spawn(|| value(&authorizer))).collect();
            fs::write(&go, "").expect("write");
            for other in others {
                assert_eq!(other.join().expect("no panic"), "Bearer t");
            }
        });
        assert_eq!(runs(&count), 1);
    }
}
