"""What a job remembers: descriptors, key groups, serializers, backends, timers, snapshots, object store, job log."""
