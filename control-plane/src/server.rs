//! Start and end of the server, and what it says to the person who started it.

use crate::accounts::{Accounts, LINK_LIFE};
use crate::agents::identity::AgentIdentity;
use crate::agents::{self, Agents};
use crate::app::{App, Parts};
use crate::config::{BadSetting, RuntimeKind, Settings};
use crate::entities::now_ms;
use crate::environment::Environments;
use crate::events::Events;
use crate::lifecycle::{self, Lifecycle, State};
use crate::runtime::Runtime;
use crate::runtime::kubernetes::{ConnectError, KubernetesRuntime};
use crate::runtime::local::LocalRuntime;
use crate::telemetry::metrics::Metrics;
use crate::templates::Templates;
use crate::workspace::{Database, Store};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long the database may take to answer at start, migrations aside.
const DATABASE_PATIENCE: Duration = Duration::from_secs(60);
/// How long links and sockets may take to close once the last request is answered.
const LINKS_GRACE: Duration = Duration::from_secs(4);
/// How often expired links and browsers' sessions are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// The database in the data folder, where none is given.
const SQLITE_FILE: &str = "berth.sqlite";
/// The file in the data folder that says which database its sessions are of.
const DATABASE_FILE: &str = "database";

/// Why the server does not run: what was wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The data folder cannot be made or written.
    #[error(
        "The data folder {0} cannot be used: {1}. Choose another with --data, or change its permissions."
    )]
    Data(PathBuf, io::Error),
    /// Another server has it.
    #[error("Another server uses the data folder {0}. Stop it, or choose another folder with --data.")]
    Locked(PathBuf),
    /// Its sessions are those of another database.
    #[error(
        "The data folder {0} holds the sessions of another database. With this one they would count as leftovers and be \
         removed, so nothing was touched. Give the database that belongs to it with --database-url, or choose another \
         folder with --data. If its sessions may go, remove the file {0}/{DATABASE_FILE}."
    )]
    OtherDatabase(PathBuf),
    /// The database.
    #[error(
        "The database cannot be used: {0}. Check --database-url, and that its server runs and lets this user in."
    )]
    Database(String),
    /// The cluster.
    #[error("Kubernetes cannot be used: {0}")]
    Cluster(#[from] ConnectError),
    /// Something listens there.
    #[error("{0} is taken by another program. Stop that one, or choose another address with {1}.")]
    AddressTaken(SocketAddr, &'static str),
    /// Listening is not allowed there, or the address is none of this machine's.
    #[error("Listening on {0} is not possible: {2}. Choose another address with {1}.")]
    Listen(SocketAddr, &'static str, io::Error),
    /// The key for secrets.
    #[error("The key for sessions' secrets cannot be used: {0}. Nothing was changed.")]
    SecretsKey(io::Error),
    /// The machine.
    #[error("The server could not start: {0}")]
    Other(#[from] io::Error),
}

impl StartError {
    /// The process's exit code: 2 for a setting, as for an unknown flag; else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Setting(_)) { 2 } else { 1 }
    }
}

/// Serves until Ctrl-C or SIGTERM.
pub async fn serve(settings: Settings) -> Result<(), StartError> {
    settings.check()?;
    let _lock = lock(&settings.data)?;
    let database = open(&settings).await?;
    claim(&settings.data, &database).await?;
    let listener = bind(settings.listen, "--listen").await?;
    let agent_listener = bind(settings.agent_listen, "--agent-listen").await?;
    let address = listener.local_addr()?;
    let base = base_url(&settings, address);
    write_file(&settings.data.join("address"), &base)?;
    let agent_address = agent_listener.local_addr()?;
    let running = running(&settings, &database, agent_address).await?;
    let app = assemble(settings, database, address, agent_address, running).await?;
    let link = app.accounts.link().await.map_err(|why| StartError::Database(why.to_string()))?;
    let mut out = io::stdout();
    let minutes = LINK_LIFE.as_secs() / 60;
    writeln!(out, "Berth is at {base}")?;
    writeln!(out, "Sign in once, within {minutes} minutes: {base}/sign-in?token={}", link.reveal())?;
    out.flush()?;
    let tasks = Tasks::start(&app, agent_listener);
    app.clone().serve(listener).await;
    finish(&app, tasks).await;
    Ok(())
}

/// What runs sessions, and who says whose agent dials.
pub struct Running {
    /// What runs agents.
    pub runtime: Arc<dyn Runtime>,
    /// Who they are.
    pub identity: Arc<dyn AgentIdentity>,
}

async fn running(
    settings: &Settings,
    database: &Database,
    agent_address: SocketAddr,
) -> Result<Running, StartError> {
    match settings.runtime {
        RuntimeKind::Local => {
            let runtime = LocalRuntime::new(&settings.data, std::env::current_exe()?)?;
            runtime.announce(agent_address)?;
            let identity = Arc::new(agents::StoredCredentials(database.clone()));
            Ok(Running { runtime: Arc::new(runtime), identity })
        }
        RuntimeKind::Kubernetes => {
            let runtime = KubernetesRuntime::connect(&settings.kubernetes, database.clone()).await?;
            let identity = runtime.identity();
            Ok(Running { runtime: Arc::new(runtime), identity })
        }
    }
}

/// What runs beside the public listener.
struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Tasks {
    fn start(app: &App, agent_listener: TcpListener) -> Self {
        let (agents, lifecycle) = (app.agents.clone(), app.lifecycle.clone());
        let events = app.events.clone().run(
            app.store.clone(),
            lifecycle.clone(),
            agents.clone(),
            app.shutdown.clone(),
        );
        Self(vec![
            tokio::spawn(watch_signals(app.shutdown.clone())),
            tokio::spawn(sweep(app.clone())),
            tokio::spawn(events),
            tokio::spawn(async move { agents.serve(agent_listener).await }),
            tokio::spawn(async move { lifecycle.run().await }),
        ])
    }
}

/// Prints a new one-time link for the server that uses this data folder.
pub async fn print_sign_in_link(settings: &Settings) -> Result<(), StartError> {
    let base = std::fs::read_to_string(settings.data.join("address"))
        .unwrap_or_else(|_| base_url(settings, settings.listen));
    if settings.database_url.is_none() && !settings.data.join(SQLITE_FILE).exists() {
        let why = io::Error::new(io::ErrorKind::NotFound, "no server has used it yet");
        return Err(StartError::Data(settings.data.clone(), why));
    }
    let database = open(settings).await?;
    let failed = |why: sea_orm::DbErr| StartError::Database(why.to_string());
    let accounts = Accounts::open(database, None).await.map_err(failed)?;
    let link = accounts.link().await.map_err(failed)?;
    writeln!(io::stdout(), "{}/sign-in?token={}", base.trim(), link.reveal())?;
    Ok(())
}

/// Puts a server's parts together over an open database. Nothing runs before it is told to.
pub async fn assemble(
    settings: Settings,
    database: Database,
    address: SocketAddr,
    agent_address: SocketAddr,
    running: Running,
) -> Result<App, StartError> {
    let failed = |why: sea_orm::DbErr| StartError::Database(why.to_string());
    let accounts = Accounts::open(database.clone(), settings.admin_token.as_ref()).await.map_err(failed)?;
    let store = Store::new(database.clone(), settings.sync_limits());
    let templates = Templates::new(database.clone());
    templates.provide_default(&settings.default_template()).await.map_err(failed)?;
    let seal = settings.seal().map_err(StartError::SecretsKey)?;
    let environments = Environments::new(database.clone(), seal.map(Arc::new));
    let Running { runtime, identity } = running;
    let metrics = Metrics::new();
    let serving = agents::registry::Settings {
        environments: environments.clone(),
        identity,
        limits: settings.sync_limits(),
        metrics: metrics.clone(),
        replica: format!("{}-{}", std::process::id(), now_ms()),
        address: agent_address.to_string(),
    };
    let agents = Agents::new(store.clone(), serving);
    let lifecycle = Lifecycle::new(store.clone(), agents.clone(), runtime, lifecycle::Settings::default());
    let upload_memory = Semaphore::new(settings.upload_memory_mb as usize * 1024);
    Ok(App::new(Parts {
        settings,
        address,
        database,
        store,
        agents,
        templates,
        environments,
        lifecycle,
        events: Events::default(),
        accounts,
        metrics,
        upload_memory,
        shutdown: CancellationToken::new(),
        sockets: tokio_util::task::TaskTracker::new(),
    }))
}

/// What comes after the last request: links are closed, agents live on, and the person is told of them.
async fn finish(app: &App, tasks: Tasks) {
    let running = app.lifecycle.list(None).await.unwrap_or_default();
    // The local runtime's agents are processes of this machine, so a person can end them without a server.
    let running: Vec<_> = running
        .into_iter()
        .filter(|session| session.state == State::Running)
        .map(|session| (app.agents.get(session.id).map(|link| link.hello().pid), session))
        .collect();
    app.sockets.close();
    // Together: what the one waits for may be ended by the other.
    let closing = async { tokio::join!(app.lifecycle.close(), app.agents.close(), app.sockets.wait()) };
    if tokio::time::timeout(LINKS_GRACE, closing).await.is_err() {
        tracing::warn!("links and sockets did not close in time");
    }
    for task in tasks.0 {
        task.abort();
    }
    if let Err(why) = app.database.close().await {
        tracing::debug!(%why, "the database was not closed properly");
    }
    // Pods are the cluster's, and their agents wait for the next server.
    if running.is_empty() || app.settings.runtime != RuntimeKind::Local {
        return;
    }
    let mut out = io::stdout();
    let _ = writeln!(out, "These sessions go on without the server, with all that runs in them:");
    for (pid, session) in &running {
        let name = crate::telemetry::Untrusted(&session.name);
        let _ = match pid {
            Some(pid) => writeln!(out, "  {name}  (to stop it now: kill {pid})"),
            None => writeln!(out, "  {name}"),
        };
    }
    let _ = writeln!(
        out,
        "Start the server again to use them; without one they end by themselves after 10 minutes, files kept."
    );
}

/// Opens the settings' database. One in the data folder is for its owner alone, also where the folder is not.
pub async fn open(settings: &Settings) -> Result<Database, StartError> {
    let url = settings.database();
    if settings.database_url.is_none() {
        let file = settings.data.join(SQLITE_FILE);
        make_private(&file).map_err(|why| StartError::Data(settings.data.clone(), why))?;
    }
    let opening = tokio::time::timeout(DATABASE_PATIENCE, Database::open(url.expose()));
    match opening.await {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(why)) => Err(StartError::Database(without_password(&why.to_string(), url.expose()))),
        Err(_) => {
            Err(StartError::Database(format!("no answer within {} seconds", DATABASE_PATIENCE.as_secs())))
        }
    }
}

/// Gives a database its mode before SQLite opens it, which makes the files beside it with the same.
fn make_private(database: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(database)?;
    // Those of an earlier version, and those of a server that was killed, are there already.
    for ending in ["", "-wal", "-shm"] {
        let mut file = database.as_os_str().to_owned();
        file.push(ending);
        match std::fs::set_permissions(&file, Permissions::from_mode(0o600)) {
            // Another's file that we may write is its owner's to protect.
            Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            done => done?,
        }
    }
    Ok(())
}

/// A driver's message, in case it quotes the URL.
fn without_password(message: &str, url: &str) -> String {
    let password = url
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .and_then(|(user, _)| user.split_once(':'));
    match password {
        Some((_, password)) if !password.is_empty() => message.replace(password, "…"),
        _ => message.to_owned(),
    }
}

/// The data folder, made if need be, readable for its owner alone, and held against a second server.
fn lock(data: &Path) -> Result<File, StartError> {
    let unusable = |why| StartError::Data(data.to_owned(), why);
    if !data.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(unusable)?;
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data.join("server.lock"))
        .map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(data.to_owned())),
        Err(TryLockError::Error(why)) => Err(unusable(why)),
    }
}

/// Writes a small file whole or not at all, for its owner alone.
fn write_file(path: &Path, text: &str) -> Result<(), StartError> {
    let unusable = |why| StartError::Data(path.to_owned(), why);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(unusable)?;
    file.write_all(text.as_bytes()).map_err(unusable)?;
    std::fs::rename(&new, path).map_err(unusable)
}

/// Binds a data folder to its database. What lies in the folder and is unknown to the database is removed as a
/// leftover, and much of it is nowhere else: a mistyped URL or a fresh database must not come to that.
pub async fn claim(data: &Path, database: &Database) -> Result<(), StartError> {
    let identity =
        database.identity().await.map_err(|why| StartError::Database(why.to_string()))?.to_string();
    let file = data.join(DATABASE_FILE);
    match std::fs::read_to_string(&file) {
        Ok(known) if known.trim() == identity => Ok(()),
        Ok(_) => Err(StartError::OtherDatabase(data.to_owned())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => write_file(&file, &identity),
        Err(why) => Err(StartError::Data(data.to_owned(), why)),
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|why| match why.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressTaken(address, flag),
        _ => StartError::Listen(address, flag, why),
    })
}

/// Where users find the server.
fn base_url(settings: &Settings, address: SocketAddr) -> String {
    match &settings.public_url {
        Some(url) => url.to_string(),
        // Nobody can open 0.0.0.0; on this machine, this name leads there.
        None if address.ip().is_unspecified() => format!("http://localhost:{}", address.port()),
        None => format!("http://{address}"),
    }
}

/// Cancels `shutdown` at Ctrl-C or SIGTERM. A second Ctrl-C ends the process at once.
async fn watch_signals(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be watched");
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("ending: no new requests, open ones have a few seconds");
    shutdown.cancel();
    interrupt.recv().await;
    std::process::exit(130);
}

async fn sweep(app: App) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        match app.store.sweep(now_ms()).await {
            Ok(swept) => tracing::debug!(?swept, "history swept"),
            Err(why) => tracing::warn!(%why, "the history could not be swept"),
        }
        if let Err(why) = app.accounts.sweep().await {
            tracing::warn!(%why, "expired sign-ins could not be removed");
        }
    }
}
