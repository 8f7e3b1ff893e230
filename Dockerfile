# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build

# musl: the program is static, and the image holds nothing else that could need an update.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates=2* musl-tools=1.* \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"

WORKDIR /build

# The dependencies alone: this layer is built anew only when Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
 && echo 'fn main() {}' > src/main.rs \
 && cp src/main.rs tests/it/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --bin consentd --target "$(uname -m)-unknown-linux-musl" \
 && rm -r src

COPY . .
# What is newer than the first build is built: the clock of the machine that sent the files does not count.
RUN find src -name '*.rs' -exec touch {} + \
 && SQLX_OFFLINE=true cargo build --release --locked --bin consentd --target "$(uname -m)-unknown-linux-musl" \
 && install -D -m 0755 "target/$(uname -m)-unknown-linux-musl/release/consentd" /image/usr/bin/consentd \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && install -D -m 0644 LICENSE /image/usr/share/doc/consentd/LICENSE \
 && echo 'consentd:x:65532:65532::/var/lib/consentd:/sbin/nologin' > /image/etc/passwd \
 && install -d -m 0700 -o 65532 -g 65532 /image/var/lib/consentd

FROM scratch

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="consentd" \
      org.opencontainers.image.description="Consent management for the VLA Inference API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /image/ /

# The image has no PostgreSQL: CONSENTD_DATABASE_URL, or CONSENTD_DATABASE_URL_FILE, must name one.
ENV CONSENTD_LISTEN=0.0.0.0:8080 \
    CONSENTD_LOG_FORMAT=json \
    CONSENTD_DATA_DIR=/var/lib/consentd

# The operator's key and the audit log's, made at the first start, and the largest checkpoint that was seen: keep it.
VOLUME ["/var/lib/consentd"]
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --retries=3 CMD ["/usr/bin/consentd", "healthcheck"]
ENTRYPOINT ["/usr/bin/consentd"]
CMD ["serve"]
