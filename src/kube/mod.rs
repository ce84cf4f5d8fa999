//! A small blocking Kubernetes client. (Stub.)
