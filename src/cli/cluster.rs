//! The cluster that a front serves, as the flags and variables name it.

use super::secret::{self, Content, Secret};
use super::url::parse_authority;
use crate::storage::{ClusterConfig, Seed};
use clap::Args;
use clap::builder::{BoolishValueParser, PathBufValueParser};
use std::path::{Path, PathBuf};

/// The port of a node that none is given for: that of Redis and Valkey.
const PORT: u16 = 6379;

/// The most replicas to wait for; more would be a mistake.
const REPLICAS_MAX: usize = 100;

/// The flag that names the file of the password.
const PASSWORD_FILE: &str = "--cluster-password-file";

/// The flags of a front to a cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// Keep nothing here, and serve a Redis or Valkey Cluster: nodes of it to ask first,
    /// with commas between them; port 6379 unless told otherwise; may be repeated
    // Text of any kind: a complaint of clap's would show the password of somebody who puts
    // it here.
    #[arg(long = "cluster", env = "LKV_CLUSTER", hide_env_values = true,
          value_name = "HOST:PORT,...",
          conflicts_with_all = ["working_dir", "wait_for_lock", "max_memory", "max_disk",
                                "when_full", "history", "max_watchers"])]
    pub nodes: Vec<String>,

    /// The replicas that have to have a write before it is answered
    #[arg(long = "cluster-wait", env = "LKV_CLUSTER_WAIT", value_name = "N",
          value_parser = parse_replicas, default_value_t = 0)]
    pub replicas: usize,

    /// Let DELETE /clear delete every key of the cluster, those of other applications too
    #[arg(long = "cluster-clear", env = "LKV_CLUSTER_CLEAR",
          value_parser = BoolishValueParser::new())]
    pub may_clear: bool,

    /// A file of the cluster's password, which may have the user in a line before it
    #[arg(long = "cluster-password-file", env = "LKV_CLUSTER_PASSWORD_FILE",
          hide_env_values = true, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub password_file: Option<PathBuf>,

    /// The user of the variable [`USER`](Self::USER).
    #[arg(skip)]
    pub user: Option<Secret>,

    /// The password of the variable [`PASSWORD`](Self::PASSWORD).
    #[arg(skip)]
    pub password: Option<Secret>,
}

/// The user, if not the default one, and the password.
type Login = (Option<String>, Option<String>);

impl ClusterOptions {
    /// The variable of the user.
    pub const USER: &str = "LKV_CLUSTER_USER";

    /// The variable of the password.
    pub const PASSWORD: &str = "LKV_CLUSTER_PASSWORD";

    /// Returns true if the store is a front to a cluster.
    pub fn is_front(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Takes user and password from the environment.
    pub(super) fn read_variables(&mut self) -> Result<(), String> {
        self.user = Secret::read(Self::USER)?;
        self.password = Secret::read(Self::PASSWORD)?;
        Ok(())
    }

    /// Fails for nodes that are none, and for flags that contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.is_front() {
            self.seeds()?;
        } else if let Some(flag) = self.first_given() {
            return Err(format!("{flag} cannot be used without --cluster"));
        }
        if self.password.is_some() && self.password_file.is_some() {
            return Err(format!("{} and {PASSWORD_FILE} cannot be used together", Self::PASSWORD));
        }
        if self.user.is_some() && self.password.is_none() && self.password_file.is_none() {
            return Err(format!("{} needs {} or {PASSWORD_FILE}", Self::USER, Self::PASSWORD));
        }
        Ok(())
    }

    /// The first of the flags and variables that mean something on a cluster alone.
    fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--cluster-wait", self.replicas > 0),
            ("--cluster-clear", self.may_clear),
            (PASSWORD_FILE, self.password_file.is_some()),
            (Self::USER, self.user.is_some()),
            (Self::PASSWORD, self.password.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// The nodes to ask first, each once.
    fn seeds(&self) -> Result<Vec<Seed>, String> {
        if self.nodes.iter().any(|text| text.contains('@')) {
            // Maybe a password, of which nothing is shown.
            return Err(format!(
                "--cluster: a node is a host and a port alone; its user and password are those \
                 of {} and {}",
                Self::USER,
                Self::PASSWORD
            ));
        }
        let words = self.nodes.iter().flat_map(|text| text.split([',', ' ', '\t', '\n']));
        let mut seeds = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            let seed = parse_seed(word)?;
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
        if seeds.is_empty() {
            return Err("--cluster names no node".to_owned());
        }
        Ok(seeds)
    }

    /// The configuration of a front, with a warning if there is one; `None` for a store of
    /// its own. Reads the file of the password.
    pub fn config(&self) -> Result<Option<(ClusterConfig, Option<String>)>, String> {
        if !self.is_front() {
            return Ok(None);
        }
        let text = |secret: &Option<Secret>| secret.as_ref().map(|text| text.as_str().to_owned());
        let (mut user, mut password, mut warning) = (text(&self.user), text(&self.password), None);
        if let Some(path) = &self.password_file {
            let complain = |what: &str| secret::complaint(PASSWORD_FILE, path, what);
            let (login, is_open_to_all) = read_login(path).map_err(|what| complain(&what))?;
            if login.0.is_some() && user.is_some() {
                let both = format!("it has a user, and so has {}", Self::USER);
                return Err(complain(&both));
            }
            (user, password) = (login.0.or(user), login.1);
            warning = is_open_to_all.then(|| complain(secret::OPEN_TO_ALL));
        }
        let (seeds, replicas, may_clear) = (self.seeds()?, self.replicas, self.may_clear);
        Ok(Some((ClusterConfig { seeds, user, password, replicas, may_clear }, warning)))
    }
}

/// The login that a file has, and whether everyone may read it.
fn read_login(path: &Path) -> Result<(Login, bool), String> {
    let content = Content::read(path).map_err(|err| err.to_string())?;
    let lines: Vec<&str> = content.text()?.lines().collect();
    let (user, password) = match lines[..] {
        [password] => (None, password),
        [user, password] => (Some(user), password),
        [] => (None, ""),
        [_, _, ..] => return Err("it has more than two lines".to_owned()),
    };
    if password.is_empty() || user.is_some_and(str::is_empty) {
        return Err("a line of it is empty".to_owned());
    }
    Ok(((user.map(str::to_owned), Some(password.to_owned())), content.is_open_to_all))
}

/// The node of a word: a name or an address, and maybe a port.
fn parse_seed(word: &str) -> Result<Seed, String> {
    let is_of_node = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    let parsed = parse_authority(word, PORT)
        .filter(|(_, port)| word.bytes().all(is_of_node) && *port > 0 && !word.ends_with(':'));
    let (host, port) = parsed.ok_or_else(|| {
        format!("--cluster: {word} is not a node such as 10.0.0.1:6379 or [::1]:6379")
    })?;
    Ok(Seed { host: host.to_owned(), port })
}

fn parse_replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 0..=REPLICAS_MAX) => Ok(count),
        Ok(_) | Err(_) => Err(format!("not a number of replicas from 0 to {REPLICAS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::subcommands::tests::{complaint, options};
    use std::fs;

    fn nodes(arguments: &[&str]) -> Vec<(String, u16)> {
        let seeds = options(arguments).cluster.seeds().expect("they are nodes");
        seeds.into_iter().map(|seed| (seed.host, seed.port)).collect()
    }

    #[test]
    fn nodes_add_up_and_have_the_usual_port() {
        let [a, b] = [("10.0.0.1".to_owned(), 6379), ("b.test".to_owned(), 7000)];
        for arguments in [
            &["--cluster", "10.0.0.1:6379,b.test:7000"][..],
            &["--cluster", "10.0.0.1", "--cluster", "b.test:7000"],
            &["--cluster=10.0.0.1 b.test:7000"],
            &["--cluster", " 10.0.0.1, b.test:7000,10.0.0.1:6379,"],
        ] {
            assert_eq!(nodes(arguments), [a.clone(), b.clone()], "{arguments:?}");
        }
        let loopback = "::1".to_owned();
        assert_eq!(nodes(&["--cluster", "[::1]:7000"]), [(loopback.clone(), 7000)]);
        assert_eq!(nodes(&["--cluster", "[::1]"]), [(loopback, 6379)]);
    }

    #[test]
    fn what_is_no_node_is_told() {
        for word in [
            "::1",
            "::1:6379",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:b",
            "a:1:2",
            ":6379",
            "[a]:1",
            "[::1",
            "redis://a:6379",
            "a:6379/0",
            "a%41:1",
            "\u{e4}:1",
        ] {
            let line = complaint(&["--cluster", &format!("10.0.0.1,{word}")]);
            assert!(line.starts_with(&format!("--cluster: {word} is not a node")), "{line}");
        }
        for none in ["", ",", " "] {
            assert!(complaint(&["--cluster", none]).contains("names no node"), "{none:?}");
        }
        for nodes in ["me:secret@a:6379", "me:secret,word@a:6379", "b,redis://:secret@a"] {
            let line = complaint(&["--cluster", nodes]);
            assert!(line.contains("LKV_CLUSTER_PASSWORD") && !line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn a_front_has_no_storage_of_its_own() {
        for (flag, value) in [
            ("--working-dir", "dir"),
            ("--max-memory", "1GiB"),
            ("--max-disk", "1GiB"),
            ("--when-full", "evict"),
            ("--when-full", "refuse"),
            ("--wait-for-lock", "30s"),
            ("--history", "1MiB"),
            ("--max-watchers", "10"),
        ] {
            let line = complaint(&["--cluster", "a", flag, value]);
            assert!(line.contains("--cluster") && line.contains(flag), "{line}");
        }
    }

    #[test]
    fn flags_of_a_front_need_a_cluster() {
        for flags in
            [&["--cluster-wait", "1"][..], &["--cluster-clear"], &["--cluster-password-file", "a"]]
        {
            let line = complaint(flags);
            assert!(line.starts_with(flags[0]) && line.contains("without --cluster"), "{line}");
        }
        assert!(!options(&["--cluster-wait", "0"]).cluster.is_front());
        for count in ["-1", "101", "1s", ""] {
            let flag = format!("--cluster-wait={count}");
            assert!(complaint(&["--cluster", "a", &flag]).contains("--cluster-wait"), "{count}");
        }
    }

    #[test]
    fn a_file_has_the_password_and_maybe_the_user_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let login = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let mut cluster =
                options(&["--cluster", "a", "--cluster-password-file", path.to_str().unwrap()]);
            cluster.cluster.user = (bytes == b"of it\n").then(|| Secret::new("ann"));
            let config = cluster.cluster.config().map(|config| config.unwrap().0);
            config.map(|config| (config.user, config.password))
        };
        let password = |text: &str| Some(text.to_owned());
        assert_eq!(login(b"secret"), Ok((None, password("secret"))));
        assert_eq!(login(b"a secret \r\n"), Ok((None, password("a secret "))));
        assert_eq!(login(b"ann\nsecret\n"), Ok((password("ann"), password("secret"))));
        assert_eq!(login(b"\xef\xbb\xbfsecret\r\n"), Ok((None, password("secret"))));
        let of_two = Ok((password("ann"), password("\u{feff}secret")));
        assert_eq!(login("\u{feff}ann\n\u{feff}secret\n".as_bytes()), of_two);
        assert_eq!(login(b"of it\n"), Ok((password("ann"), password("of it"))));
        for (bytes, mentioned) in [
            (&b""[..], "empty"),
            (b"\n", "empty"),
            (b"\xef\xbb\xbf", "empty"),
            (b"ann\n\n", "empty"),
            (b"\nsecret\n", "empty"),
            (b"ann\nsecret\nmore\n", "two lines"),
            (b"secret\xff", "UTF-8"),
        ] {
            let line = login(bytes).expect_err("it is no good");
            assert!(line.contains(mentioned) && line.contains("--cluster-password-file"), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let mut options = options(&["--cluster", "a"]);
        options.cluster.user = Some(Secret::new("ann"));
        options.cluster.password = Some(Secret::new("a-5ecret"));
        options.token = None;
        let (config, _) = options.cluster.config().unwrap().unwrap();
        assert_eq!(config.password.as_deref(), Some("a-5ecret"));
        for shown in [format!("{options:?}"), format!("{config:?}")] {
            assert!(!shown.contains("5ecret"), "{shown}");
        }
    }
}
