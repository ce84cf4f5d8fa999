module pipeops-agent/benches/go-agent

go 1.26

require github.com/gorilla/websocket v1.5.3

require github.com/hashicorp/yamux v0.1.2
