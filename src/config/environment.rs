//! Environment variables that are set and empty, as `docker compose` and systemd leave them.

use clap::{Arg, Command};

/// Makes empty environment variables count as unset. Those of [`must_have_value`] stay, and are refused when they are used.
/// No help shows the value of a variable: it may be a secret.
pub fn prepare(command: Command) -> Command {
    let with_own = command.mut_args(|arg| {
        let arg = arg.hide_env_values(true);
        if is_empty(&arg) && !must_have_value(arg.get_id().as_str()) {
            arg.env(None::<&'static str>)
        } else {
            arg
        }
    });
    with_own.mut_subcommands(prepare)
}

/// Returns whether an empty value is a mistake: without a database URL the service would start a private database, and
/// without a key it would make or use another one.
pub fn must_have_value(setting: &str) -> bool {
    let name = setting.strip_suffix("_file").unwrap_or(setting);
    name.ends_with("database_url") || name.ends_with("_key")
}

#[expect(clippy::disallowed_methods, reason = "this is a part of `config`")]
fn is_empty(arg: &Arg) -> bool {
    arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
}
