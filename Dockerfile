# The image holds the binary, the C library that it is linked to and the system's trust anchors. No shell, no package manager, no root.
# Tested of it (tests/deploy.rs): the root file system that deploy/rootfs puts together runs the binary in a chroot as uid 65064, and user and
# command agree with deploy/sidecar.yaml. Not tested: this file itself. No container engine was at hand, so no image was built from it yet.
FROM rust:1.95-bookworm AS build
# aws-lc builds with cmake; the rest is what deploy/build takes the profile with
RUN apt-get update && apt-get install -y --no-install-recommends cmake nginx-light nghttp2-client openssl python3 && rm -rf /var/lib/apt/lists/* && \
    rustup component add llvm-tools
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    deploy/build && cp target/shipped/exeat /exeat
RUN deploy/rootfs /exeat /rootfs

FROM scratch
COPY --from=build /rootfs /
USER 65064:65064
# status server; the listeners are loopback or unix sockets of the pod
EXPOSE 15090
ENTRYPOINT ["/exeat"]
CMD ["run", "-c", "/etc/exeat/exeat.yaml"]
