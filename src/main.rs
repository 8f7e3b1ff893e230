use std::process::ExitCode;

fn main() -> ExitCode {
    consentd::cli::run()
}
