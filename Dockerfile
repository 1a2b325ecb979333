# The image holds the static binaries and an empty data directory: no base
# image, no shell, nothing pulled. Its context is made by scripts/image.sh
# ("make image"), because the binaries are built outside of it.
FROM scratch

# 65532 has no name here, since there is no /etc/passwd; the number is enough.
# The directory must belong to it in the image: a named volume that is mounted
# there for the first time takes over its owner, else it would be root's.
COPY --chown=65532:65532 data /var/lib/brokerd
COPY brokerd brokerctl* /

USER 65532:65532
VOLUME ["/var/lib/brokerd"]
ENV BROKERD_DATA_DIR=/var/lib/brokerd
EXPOSE 9092 9093 9095 9644
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/brokerd", "healthcheck"]
ENTRYPOINT ["/brokerd"]
CMD ["serve"]
