//! An API server that answers when it is told to, and says who has gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use parking_lot::Mutex;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use pipeops_agent::net::Cancel;

use crate::support::upstream::{Upstream, content};
use crate::support::wait::LIMIT;

pub(crate) struct Held {
    pub(crate) upstream: Upstream,
    pub(crate) begun: Receiver<Begun>,
    gone: Receiver<Gone>,
    release: Mutex<Option<Sender<()>>>,
}

/// A request that has arrived.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) target: String,
    /// Which connection it came on.
    pub(crate) peer: SocketAddr,
}

/// A request whose client has gone, and when that was noticed.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) target: String,
    pub(crate) at: Instant,
}

/// `?head`: the head and a first piece of its answer come at once. `?quick`: all of it.
pub(crate) fn held() -> Held {
    let (begins, begun) = unbounded();
    let (goes, gone) = unbounded();
    let (release, released) = bounded::<()>(0);
    let upstream = Upstream::start_tls(move |request, body, responder| {
        hold(request, body, responder, &begins, &goes, &released);
    });
    Held {
        upstream,
        begun,
        gone,
        release: Mutex::new(Some(release)),
    }
}

fn hold(
    request: Request,
    mut body: RequestBody,
    responder: Responder,
    begins: &Sender<Begun>,
    goes: &Sender<Gone>,
    released: &Receiver<()>,
) {
    let target = request.target;
    let kind = content("text/plain");
    let begun = Begun {
        target: target.clone(),
        peer: request.peer,
    };
    let cancel = Cancel::new();
    let _watch = responder.on_client_gone(&cancel).expect("watched");
    let (wake, woken) = bounded(1);
    let wake = move || {
        let _ = wake.try_send(());
    };
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
    let guard = cancel.on_wake(wake.clone());
    if guard.is_err() {
        wake(); // it has gone already
    }
    let mut responder = Some(responder);
    let mut writer = None;
    if target.contains("head") {
        let responder = responder.take().expect("there is one");
        // Its client may have gone.
        let Ok(mut answer) = responder.start(200, &kind, None) else {
            return;
        };
        let _ = answer.write(b"one");
        writer = Some(answer);
    }
    // Nobody waits for it when the test is over.
    let _ = begins.send(begun);
    let read = body.read_all(1 << 20);
    drop(body);
    let gone = |target: String| {
        let at = Instant::now();
        let _ = goes.send(Gone { target, at });
    };
    if read.is_err() {
        return gone(format!("{target} (its body broke off)"));
    }
    if target.contains("quick") {
        let responder = responder.take().expect("there is one");
        drop(responder.respond(200, &kind, b"quick"));
        return;
    }
    select! {
        recv(woken) -> _ => gone(target),
        recv(released) -> _ => match (writer, responder) {
            (Some(writer), _) => drop(writer.finish()),
            (None, Some(responder)) => drop(responder.respond(200, &kind, b"late")),
            (None, None) => {}
        }
    }
}

impl Held {
    /// The target of the next request.
    pub(crate) fn begun(&self) -> String {
        self.next_begun().target
    }

    pub(crate) fn next_begun(&self) -> Begun {
        self.begun.recv_timeout(LIMIT).expect("it arrives")
    }

    /// The target of the next request that its client gives up.
    pub(crate) fn gone(&self) -> String {
        self.next_gone().target
    }

    pub(crate) fn next_gone(&self) -> Gone {
        self.gone.recv_timeout(LIMIT).expect("it goes")
    }

    /// All answers come now.
    pub(crate) fn release(&self) {
        self.release.lock().take();
    }
}
