//! Streams to Services (control-channel.md §9.2): a request that becomes a WebSocket.

mod running;
mod starting;

use super::super::services::{Town, house, house_with, to_web};
use super::*;

/// A browser's upgrade of `web.shop:80`.
fn upgrading(mut more: Value) -> Value {
    let mut payload = to_web(json!({
        "path": "/socket", "query": "b=1&a", "is_websocket": true, "headers": {
            "Host": "shop.test", "Cookie": "session=1", "Origin": "https://shop.test",
            "Connection": "Upgrade, X-Hop", "Upgrade": "websocket", "X-Hop": "1",
            "Sec-WebSocket-Key": "the-client's-own", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": "graphql-ws, chat",
            "Sec-WebSocket-Extensions": "permessage-deflate",
        },
    }));
    let fields = payload.as_object_mut().expect("an object");
    fields.append(more.as_object_mut().expect("an object"));
    payload
}

impl House {
    /// A stream that runs, in form B.
    fn open_app(&mut self, id: &str) -> Leg {
        self.request(id, upgrading(json!({})));
        let leg = upgrade(self.upstream.accept(), None);
        assert_eq!(self.expect("proxy_response", id)["status"], 101);
        leg
    }

    fn expect_app_data(&self, id: &str) -> (u8, Vec<u8>) {
        let payload = self.expect("proxy_websocket_data", id);
        assert_eq!(
            (&payload["request_id"], &payload["stream_id"]),
            (&id.into(), &id.into())
        );
        let data = decode(&payload["data"]);
        assert_eq!(payload["message_type"], data[0]);
        (data[0], data[1..].to_vec())
    }

    fn expect_app_close(&self, id: &str) {
        let payload = self.expect("proxy_websocket_close", id);
        assert_eq!(payload, json!({"request_id": id, "stream_id": id}));
    }

    /// A message without the type in front of it.
    fn unframed(&mut self, id: &str, kind: u8, payload: &[u8]) {
        let data = json!({"request_id": id, "data": encode(payload), "message_type": kind});
        self.say("proxy_websocket_data", "-", data);
    }
}
