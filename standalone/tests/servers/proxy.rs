//! A proxy of our own between the instance and one of its servers, which does on purpose what
//! networks and servers do by accident.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// This status, without asking the server.
    Status(u16),
    /// The server's answer, later.
    Slow(Duration),
    /// The server does it, and half of its answer arrives.
    Cut,
    /// The server does it, and the connection ends before its answer.
    Lost,
}

type Choose = Box<dyn Fn(&str, &str) -> Fault + Send + Sync>;

/// Speaks HTTP on an address of its own and passes it on, as its faults say.
pub struct HttpProxy {
    pub url: String,
    port: u16,
    target: String,
    choose: Arc<Mutex<Choose>>,
    accepting: Option<tokio::task::JoinHandle<()>>,
}

impl HttpProxy {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut proxy = Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            target: target.trim_end_matches('/').to_owned(),
            choose: Arc::new(Mutex::new(Box::new(|_, _| Fault::None))),
            accepting: None,
        };
        proxy.accept(listener);
        proxy
    }

    /// From now on `choose` says, by method and path, what becomes of a request.
    pub fn faults(&self, choose: impl Fn(&str, &str) -> Fault + Send + Sync + 'static) {
        *self.choose.lock() = Box::new(choose);
    }

    /// Nobody listens any more, and every connection is cut.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    pub async fn start(&mut self) {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        let (choose, target) = (self.choose.clone(), self.target.clone());
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        self.accepting = Some(tokio::spawn(async move {
            // Connections go with this set, when the task is aborted.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let (choose, target, client) = (choose.clone(), target.clone(), client.clone());
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let service = service_fn(move |request| {
                        pass(choose.clone(), target.clone(), client.clone(), request)
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }));
    }
}

async fn pass(
    choose: Arc<Mutex<Choose>>,
    target: String,
    client: reqwest::Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let gone = || std::io::Error::other("cut");
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let fault = choose.lock()(request.method().as_str(), &path);
    let (head, body) = request.into_parts();
    let body: Bytes = body.collect().await.map_err(|_| gone())?.to_bytes();
    match fault {
        Fault::Status(status) => {
            return Ok(Response::builder()
                .status(status)
                .body(Body::from("{\"error\":\"on purpose\"}"))
                .unwrap());
        }
        Fault::Slow(pause) => tokio::time::sleep(pause).await,
        _ => {}
    }
    let mut headers = head.headers;
    for name in ["connection", "transfer-encoding", "content-length"] {
        headers.remove(name);
    }
    let sent = client
        .request(head.method, format!("{target}{path}"))
        .headers(headers)
        .body(body)
        .send()
        .await;
    let answer = sent.map_err(|_| gone())?;
    if fault == Fault::Lost {
        return Err(gone());
    }
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    let bytes = answer.bytes().await.map_err(|_| gone())?;
    if fault == Fault::Cut {
        let half = bytes.slice(..bytes.len() / 2);
        let pieces = futures::stream::iter([Ok(half), Err(gone())]);
        return Ok(response
            .header("content-length", bytes.len())
            .body(Body::from_stream(pieces))
            .unwrap());
    }
    Ok(response.body(Body::from(bytes)).unwrap())
}

/// A Redis server of the test's own, which may die and forget.
pub struct OwnRedis {
    port: u16,
    process: std::process::Child,
}

impl OwnRedis {
    pub async fn start() -> Self {
        let port = crate::harness::free_port();
        let own = Self {
            port,
            process: Self::spawn(port),
        };
        own.answers().await;
        own
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn spawn(port: u16) -> std::process::Child {
        std::process::Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir", "/tmp"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("redis-server is missing; `make services` installs it")
    }

    async fn answers(&self) {
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Comes back with nothing in it.
    pub async fn come_back(&mut self) {
        self.process = Self::spawn(self.port);
        self.answers().await;
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
