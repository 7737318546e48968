# One node. Nothing but Go makes what is in it: make image, or make run.
FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.version=$VERSION
COPY bin/kvd /kvd
# A volume that is mounted here takes over the owner of this empty directory.
COPY --chown=65532:65532 bin/data /data
USER 65532:65532
VOLUME /data
EXPOSE 11000 12000
# Healthy is a node that can serve.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=5 CMD ["/kvd", "health"]
ENTRYPOINT ["/kvd"]
CMD ["-haddr", ":11000", "-raddr", ":12000", "/data"]
