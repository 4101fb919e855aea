//! The command line: subcommands, flags, their environment variables and their defaults;
//! and the program's standard output and standard error.
//!
//! Reading the arguments starts nothing; bad usage is reported in one line.

mod access;
mod cluster;
mod environment;
mod format;
mod json;
mod limits;
pub mod logging;
mod man;
mod output;
mod secret;
mod subcommands;
mod token_file;
mod units;
mod url;

use crate::api::{HostName, InvalidHostName, InvalidOrigin, Origin};
use crate::server::Config;
use crate::storage::Limits;
pub use access::Token;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser, PathBufValueParser};
use clap::{Args, CommandFactory as _};
use cluster::ClusterOptions;
pub use format::LogFormat;
use limits::LimitOptions;
use log::LevelFilter;
pub use output::Output;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use subcommands::Arguments;
pub use subcommands::{Instead, Task};
pub use token_file::TokenFile;
pub use units::{Size, Span};
pub use url::Url;

/// The longest value unless told otherwise.
const VALUE_SIZE_DEFAULT: Size = Size(10 << 20);

/// The highest limit for values: each is held in memory as a whole.
const VALUE_SIZE_MAX: u64 = 1 << 30;

/// The most worker threads; more would be a mistake that the system refuses.
const WORKERS_MAX: usize = 1024;

/// The flags of a store.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The address to listen on, or a name for all of its addresses; one that other
    /// machines can reach needs a token, unless everyone may come in
    #[arg(long, env = "LKV_HOST", value_parser = NonEmptyStringValueParser::new(),
          default_value_t = Config::ADDR.ip().to_string())]
    pub host: String,

    /// The port to listen on; 0 asks the system for a free one
    #[arg(long, env = "LKV_PORT", default_value_t = Config::ADDR.port())]
    pub port: u16,

    /// A file for the port, which is written once the store listens, and removed at the end
    #[arg(long, env = "LKV_PORT_FILE", value_name = "FILE",
          value_parser = PathBufValueParser::new())]
    pub port_file: Option<PathBuf>,

    /// A name that the store may be called by on a loopback address without a
    /// token, beside addresses, names without a dot and that of --host;
    /// .example.com for a domain with all below it, * for any; may be repeated
    #[arg(long, env = "LKV_ALLOW_HOST", value_name = "NAME", value_parser = parse_hosts)]
    pub allow_host: Vec<Several<HostName>>,

    /// A file of tokens, of which a caller has to have one: a line each, TOKEN
    /// [ro|rw] [PREFIX...], or sha256:HEX in place of TOKEN; a change is taken up
    /// while the store runs [default: everyone may come in]
    #[arg(long, env = "LKV_TOKEN_FILE", hide_env_values = true, value_name = "FILE",
          value_parser = PathBufValueParser::new())]
    pub token_file: Option<PathBuf>,

    /// Let everyone do everything, on an address that other machines can reach
    #[arg(long, env = "LKV_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub no_auth: bool,

    /// The token of the variable `LKV_TOKEN`. It has no flag, since everyone on this
    /// machine can see those.
    #[arg(skip)]
    pub token: Option<Token>,

    /// An origin (scheme, host and port) whose web pages may call the store and read
    /// its replies; * for any, with a token; may be repeated
    #[arg(long, env = "LKV_CORS_ORIGIN", value_name = "URL", value_parser = parse_origins)]
    pub cors_origin: Vec<Several<Origin>>,

    /// Keep the store in this directory, made if missing: a write is answered
    /// once it is synced to disk [default: in memory, gone with the process]
    #[arg(long, env = "LKV_WORKING_DIR", value_name = "DIR", conflicts_with = "max_memory",
          value_parser = PathBufValueParser::new())]
    pub working_dir: Option<PathBuf>,

    /// How long to wait for another process that has the working directory open,
    /// as one that is just stopping [default: not at all]
    #[arg(long, env = "LKV_WAIT_FOR_LOCK", value_name = "TIME", requires = "working_dir")]
    pub wait_for_lock: Option<Span>,

    /// The cluster that the store is a front to, if it is one.
    #[command(flatten)]
    pub cluster: ClusterOptions,

    /// The worker threads: they answer large requests, and stand in for a leader that
    /// is stuck [default: two for each processor]
    #[arg(long, env = "LKV_WORKERS", value_name = "N", value_parser = parse_workers)]
    pub workers: Option<usize>,

    /// The leaders, threads beside the workers that take requests and answer small
    /// ones [default: half of the processors, at least one]
    #[arg(long, env = "LKV_LEADERS", value_name = "N", value_parser = parse_leaders)]
    pub leaders: Option<usize>,

    /// The longest value; a longer one is refused with 413
    #[arg(long, env = "LKV_MAX_VALUE_SIZE", value_name = "SIZE", value_parser = parse_value_size,
          default_value_t = VALUE_SIZE_DEFAULT)]
    pub max_value_size: Size,

    /// The limits of a store of its own.
    #[command(flatten)]
    pub limits: LimitOptions,

    /// The most connections; past it the longest silent is closed [default: as
    /// many as the system has room for]
    #[arg(long, env = "LKV_MAX_CONNECTIONS", value_name = "N", value_parser = parse_count)]
    pub max_connections: Option<usize>,

    /// The most watchers that are told of changes as they happen; past it 503 [default:
    /// as many as take half of the room for connections]
    #[arg(long, env = "LKV_MAX_WATCHERS", value_name = "N", value_parser = parse_count)]
    pub max_watchers: Option<usize>,

    /// The memory for the last changes, from which a watcher that comes back goes on
    /// [default: 16MiB, or a sixteenth of --max-memory if that is less]
    #[arg(long, env = "LKV_HISTORY", value_name = "SIZE")]
    pub history: Option<Size>,

    /// How long a connection may be silent before a request
    #[arg(long, env = "LKV_IDLE_TIMEOUT", value_name = "TIME",
          default_value_t = Span(Config::default().idle_timeout))]
    pub idle_timeout: Span,

    /// How long a request may take to arrive; a large transfer has to move
    /// 1 KiB in each such time
    #[arg(long, env = "LKV_REQUEST_TIMEOUT", value_name = "TIME",
          default_value_t = Span(Config::default().request_timeout))]
    pub request_timeout: Span,

    /// How long a shutdown waits for clients
    #[arg(long, env = "LKV_SHUTDOWN_TIMEOUT", value_name = "TIME",
          default_value_t = Span(Config::default().shutdown_timeout))]
    pub shutdown_timeout: Span,

    /// The level of the log on standard error: off, error, warn, info, debug or
    /// trace; debug logs each request
    #[arg(long, env = "LKV_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelFilter,

    /// The form of a line on standard error: text, or a JSON object with time, level
    /// and message
    #[arg(long, env = "LKV_LOG_FORMAT", value_name = "FORMAT", default_value_t = LogFormat::Text,
          value_enum, ignore_case = true, hide_possible_values = true)]
    pub log_format: LogFormat,

    /// Log each response on standard error, whatever the level: in the combined log
    /// format, or as JSON with its duration in seconds
    #[arg(long, env = "LKV_ACCESS_LOG", value_parser = BoolishValueParser::new())]
    pub access_log: bool,
}

/// Values that one argument or the environment gives together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Several<T>(Vec<T>);

impl Options {
    /// Warnings of ignored environment variables that bear the program's name.
    pub fn ignored_variables() -> Vec<String> {
        let command = Arguments::command();
        let flags = command.get_arguments().filter_map(|arg| arg.get_env().map(ToOwned::to_owned));
        let others =
            [Token::VARIABLE, Url::VARIABLE, ClusterOptions::USER, ClusterOptions::PASSWORD];
        let known = flags.chain(others.map(Into::into));
        environment::ignored(&known.collect::<Vec<_>>(), std::env::vars_os())
    }

    /// The addresses that host and port stand for, at least one, each once.
    pub fn addrs(&self) -> io::Result<Vec<SocketAddr>> {
        let host = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for addr in (host.unwrap_or(&self.host), self.port).to_socket_addrs()? {
            // An IPv4 address mapped to IPv6 is the same one.
            let addr = match addr.ip().to_canonical() {
                IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
                IpAddr::V6(_) => addr,
            };
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addrs)
    }

    /// The limits of a storage of its own.
    pub fn limits(&self) -> Limits {
        self.limits.with_history(self.history)
    }

    /// The configuration of a server on `addrs`, whose storage takes up to so many
    /// descriptors.
    pub fn config(&self, addrs: Vec<SocketAddr>, storage_descriptors: u64) -> Config {
        let default = Config::default();
        Config {
            addrs,
            workers: self.workers.unwrap_or(default.workers),
            leaders: self.leaders.unwrap_or(default.leaders),
            connections_max: self.max_connections,
            streams_max: self.max_watchers,
            idle_timeout: self.idle_timeout.0,
            request_timeout: self.request_timeout.0,
            shutdown_timeout: self.shutdown_timeout.0,
            storage_descriptors,
            ..default
        }
    }
}

/// Parses names of hosts with commas or spaces between them.
fn parse_hosts(text: &str) -> Result<Several<HostName>, String> {
    parse_several(text).map_err(|(name, InvalidHostName)| {
        format!("{name} is not a name such as a.example.com, .example.com or *")
    })
}

/// Parses origins with commas or spaces between them.
fn parse_origins(text: &str) -> Result<Several<Origin>, String> {
    parse_several(text).map_err(|(origin, InvalidOrigin)| {
        format!("{origin} is not an origin such as https://app.example.com, or *")
    })
}

/// Parses words with commas or spaces between them; fails with the first bad one.
fn parse_several<T: FromStr>(text: &str) -> Result<Several<T>, (&str, T::Err)> {
    let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|err| (word, err))).collect::<Result<_, _>>().map(Several)
}

impl<T> Several<T> {
    /// All values of these.
    fn all(severals: &[Self]) -> impl Iterator<Item = &T> {
        severals.iter().flat_map(|Self(values)| values)
    }
}

fn parse_value_size(text: &str) -> Result<Size, String> {
    match text.parse()? {
        size @ Size(..=VALUE_SIZE_MAX) => Ok(size),
        Size(_) => Err(format!("more than {}", Size(VALUE_SIZE_MAX))),
    }
}

fn parse_workers(text: &str) -> Result<usize, String> {
    parse_up_to(WORKERS_MAX, text)
}

fn parse_leaders(text: &str) -> Result<usize, String> {
    parse_up_to(Config::LEADERS_MAX, text)
}

fn parse_up_to(max: usize, text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=max).contains(count));
    count.ok_or_else(|| format!("not a whole number from 1 to {max}"))
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("not a whole number from 1 on".to_owned()),
        Ok(count) => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::subcommands::tests::complaint;
    use super::*;
    use std::time::Duration;

    fn read(arguments: &[&str]) -> Result<Options, Instead> {
        let Task::Serve(options) = subcommands::tests::read(arguments)? else {
            panic!("{arguments:?} is a subcommand");
        };
        Ok(*options)
    }

    #[test]
    fn no_flags_give_the_defaults() {
        let options = read(&[]).expect("no flag is needed");
        let addrs = options.addrs().expect("it is numeric");
        assert_eq!(addrs, ["127.0.0.1:8888".parse().expect("an address")]);
        assert_eq!(options.max_value_size, Size(10 * 1024 * 1024));
        assert_eq!(options.config(addrs, 0).idle_timeout, Duration::from_secs(60));
    }

    #[test]
    fn flags_take_their_value_after_a_space_or_an_equals_sign() {
        for arguments in [&["--port", "9000"][..], &["--port=9000"]] {
            assert_eq!(read(arguments).expect("it is a flag").port, 9000);
        }
    }

    #[test]
    fn addresses_of_both_families_and_names_are_taken() {
        for host in ["::1", "[::1]", "127.0.0.1", "localhost"] {
            let options = read(&["--host", host, "--port", "0"]).expect("it is a host");
            assert!(options.addrs().expect("it has an address")[0].ip().is_loopback(), "{host}");
        }
    }

    #[test]
    fn names_to_be_called_by_add_up() {
        let names = |arguments: &[&str]| {
            let options = read(arguments).expect("they are names");
            Several::all(&options.allow_host).cloned().collect::<Vec<_>>()
        };
        let [one, other] = ["a.test", ".b.test"].map(|name| name.parse().expect("a name"));
        assert_eq!(names(&["--allow-host", "a.test", "--allow-host", ".b.test"]), [one, other]);
        let expected = names(&["--allow-host", "a.test", "--allow-host", ".b.test"]);
        for both in ["a.test,.b.test", "a.test .b.test", " a.test, .b.test "] {
            assert_eq!(names(&["--allow-host", both]), expected, "{both:?}");
        }
        assert_eq!(names(&["--allow-host", ""]), []);
        assert_eq!(names(&["--allow-host", "*"]), [HostName::Any]);
    }

    #[test]
    fn bad_usage_is_one_line() {
        let cases: [(&[&str], &str); 24] = [
            (&["--prot", "1"], "--port"),
            (&["--port", "99999"], "99999"),
            (&["--port", "abc"], "abc"),
            (&["--port"], "--port"),
            (&["--workers", "0"], "1 to 1024"),
            (&["--workers", "1025"], "1 to 1024"),
            (&["--leaders", "0"], "1 to 256"),
            (&["--leaders", "257"], "1 to 256"),
            (&["--leaders", "all"], "1 to 256"),
            (&["--max-connections", "0"], "1 on"),
            (&["--max-watchers", "0"], "1 on"),
            (&["--history", "much"], "much"),
            (&["--host", ""], "--host"),
            (&["--allow-host", "*.example.com"], "*.example.com"),
            (&["--max-value-size", "lots"], "lots"),
            (&["--max-value-size", "2GiB"], "1GiB"),
            (&["--max-memory", "0"], "--max-memory"),
            (&["--max-disk", "1XB", "--working-dir", "dir"], "1XB"),
            (&["--when-full", "panic"], "refuse, evict"),
            (&["--idle-timeout", "soon"], "soon"),
            (&["--log-level", "loud"], "loud"),
            (&["--working-dir", ""], "--working-dir"),
            (&["--working-dir", "dir", "--max-memory", "1GiB"], "--max-memory"),
            (&["extra"], "extra"),
        ];
        for (arguments, mentioned) in cases {
            let line = complaint(arguments);
            assert!(line.contains(mentioned), "{line}");
            assert!(!line.contains('\n') && line.ends_with("; see --help"), "{line}");
        }
    }

    #[test]
    fn only_a_directory_can_be_waited_for() {
        let line = complaint(&["--wait-for-lock", "30s"]);
        assert!(line.contains("--working-dir"), "{line}");
        let options = read(&["--wait-for-lock", "30s", "--working-dir", "dir"]);
        let wait = options.expect("these belong together").wait_for_lock;
        assert_eq!(wait, Some(Span(Duration::from_secs(30))));
        assert!(complaint(&["--working-dir", "dir", "--wait-for-lock", "soon"]).contains("soon"));
    }

    #[test]
    fn help_and_version_are_printed() {
        for flag in ["--help", "--version"] {
            assert!(matches!(read(&[flag]), Err(Instead::Print(_))), "{flag}");
        }
    }
}
