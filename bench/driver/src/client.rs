//! One keep-alive connection to a service, one request at a time on it.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Failure;
use crate::arguments::Arguments;

/// Where the service is, and the key with which it is called.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    authorization: String,
}

impl Target {
    pub fn read(arguments: &mut Arguments) -> Result<Self, Failure> {
        let address = arguments.required("address")?;
        Ok(Self { address, authorization: format!("Bearer {}", arguments.file("key-file")?) })
    }

    /// The same key, another service.
    pub fn at(&self, address: String) -> Self {
        Self { address, authorization: self.authorization.clone() }
    }
}

#[derive(Debug)]
pub struct Client {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        Ok(Self { target: target.clone(), sender: open(&target.address).await? })
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, String::new()).await
    }

    /// Sends a request and reads the whole answer; a connection that the service has closed is opened anew for the next.
    pub async fn call(&mut self, method: Method, path: &str, body: String) -> Result<Answer, Failure> {
        let (head, body) = self.send(method, path, "application/json", body).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if self.sender.is_closed() {
            self.sender = open(&self.target.address).await?;
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Sends a request; the answer's body is still to come.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: String,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.target.address.as_str())
            .header("authorization", self.target.authorization.as_str())
            .header("accept", accept)
            .header("user-agent", "bench-driver/0");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}

async fn open(address: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
