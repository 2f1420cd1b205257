//! What tests of agents share: a real database in a file, and an agent that a test plays itself.

use super::identity::Credential;
use super::{Agents, Settings, StoredCredentials};
use crate::environment::Environments;
use crate::lifecycle;
use crate::telemetry::metrics::Metrics;
use crate::workspace::{Database, Store};
use shared::id::{InstanceId, SessionId, VolumeId};
use shared::limits::SyncLimits;
use shared::link::hello::{Accepted, FromControlPlane, Hello, Welcome};
use shared::link::mux::{LinkStream, Opener, Side, mux};
use shared::link::socket::BinaryMessages;
use shared::link::websocket::WebSocketBytes;
use shared::link::{LINK_PATH, Open, SUBPROTOCOL, VERSION_MAX, VERSION_MIN, frame};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error as WsError, client::IntoClientRequest};
use tokio_util::task::AbortOnDropHandle;

/// How long a test waits for what should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Agents on a port of their own, over a database of their own.
pub(crate) struct Harbour {
    pub(crate) agents: Agents,
    pub(crate) store: Store,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
    _serving: AbortOnDropHandle<()>,
}

impl Harbour {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/berth.sqlite?mode=rwc", folder.path().display());
        let database = Database::open(&url).await.unwrap();
        let limits = SyncLimits::default();
        let store = Store::new(database.clone(), limits);
        let settings = Settings {
            environments: Environments::new(database.clone(), None),
            identity: Arc::new(StoredCredentials(database)),
            limits,
            metrics: Metrics::new(),
            replica: "test".into(),
            address: "127.0.0.1:0".into(),
        };
        let agents = Agents::new(store.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = agents.clone();
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.serve(listener).await }));
        Self { agents, store, address, _folder: folder, _serving: serving }
    }

    /// A session that wants to run, and the credential of its agent.
    pub(crate) async fn session(&self, name: &str) -> (SessionId, Credential) {
        let owner = self.store.database().local_user().await.unwrap();
        let session = lifecycle::test_session(self.store.database(), owner, name).await;
        let credential = Credential::random(session);
        super::keep_credential(self.store.database().writer(), &credential, 1).await.unwrap();
        (session, credential)
    }

    /// Another credential of the same session.
    pub(crate) async fn credential(&self, session: SessionId) -> Credential {
        let credential = Credential::random(session);
        super::keep_credential(self.store.database().writer(), &credential, 1).await.unwrap();
        credential
    }

    /// Dials as an agent would.
    pub(crate) async fn dial(&self, bearer: &str, protocol: &str) -> Result<Dialled, WsError> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://{}{LINK_PATH}", self.address).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, tcp).await?;
        let socket = WebSocketBytes::new(BinaryMessages::client(socket.into_inner()).await);
        let (opener, streams, driver) = mux(socket, Side::Agent);
        Ok(Dialled { opener, streams, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }

    /// An agent that is welcome.
    pub(crate) async fn link(&self, credential: &Credential) -> Linked {
        self.link_as(credential, InstanceId::random()).await
    }

    pub(crate) async fn link_as(&self, credential: &Credential, instance: InstanceId) -> Linked {
        let dialled = self.dial(&credential.reveal(), SUBPROTOCOL).await.unwrap();
        let (control, welcome) = dialled.hello(hello(instance)).await;
        let Welcome::Accepted(accepted) = welcome else { panic!("{welcome:?}") };
        Linked { dialled, control, accepted }
    }
}

/// A link before its hello.
pub(crate) struct Dialled {
    pub(crate) opener: Opener,
    pub(crate) streams: mpsc::Receiver<LinkStream>,
    _driver: AbortOnDropHandle<std::io::Result<()>>,
}

impl Dialled {
    pub(crate) async fn hello(&self, hello: Hello) -> (LinkStream, Welcome) {
        let mut control = self.opener.open().await.unwrap();
        frame::write(&mut control, &Open::Control(hello)).await.unwrap();
        let welcome = tokio::time::timeout(SOON, frame::expect(&mut control)).await.unwrap().unwrap();
        (control, welcome)
    }
}

/// A link that is up, seen from the agent.
pub(crate) struct Linked {
    pub(crate) dialled: Dialled,
    pub(crate) control: LinkStream,
    pub(crate) accepted: Accepted,
}

impl Linked {
    /// What the control plane says next on the control stream.
    pub(crate) async fn told(&mut self) -> FromControlPlane {
        tokio::time::timeout(SOON, frame::expect(&mut self.control)).await.unwrap().unwrap()
    }

    /// The next stream that the control plane opens, and what it is.
    pub(crate) async fn opened(&mut self) -> (LinkStream, Open) {
        let mut stream = tokio::time::timeout(SOON, self.dialled.streams.recv()).await.unwrap().unwrap();
        let open = frame::expect(&mut stream).await.unwrap();
        (stream, open)
    }
}

/// The hello of an agent as this build's would say it.
pub(crate) fn hello(instance: InstanceId) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        build: "test".into(),
        instance,
        volume: VolumeId::random(),
        pid: 1,
        host: "here".into(),
        terminals: 0,
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
