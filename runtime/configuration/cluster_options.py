"""Options of a cluster and of how jobs get there. Those of jobs: options.py."""

from __future__ import annotations

from typing import Literal

from .option_kinds import BOOL, COUNT, DURATION, INT, SIZE, TEXT, Option, one_of

# where a job runs ----------------------------------------------------------------------------------------------

TARGET: Option[Literal["auto", "local", "embedded", "remote"]] = Option(
    "execution.target", one_of("auto", "local", "embedded", "remote"), "auto",
    "Where jobs run: in this process (local), on a cluster that is started for them (embedded), on the cluster at "
    "rest.address (remote). auto: remote where an address is set, else embedded.",
)  # fmt: skip
ADDRESS = Option(
    "rest.address", TEXT, None, "URL of the cluster to submit to, like http://127.0.0.1:8081 (PENSTOCK_ADDRESS)."
)

# REST ----------------------------------------------------------------------------------------------------------

REST_BIND_ADDRESS = Option("rest.bind-address", TEXT, "127.0.0.1", "Address the job manager's REST listens on.")
REST_PORT = Option("rest.port", INT, 8081, "Port of REST; 0 takes a free one.", ("rest.bind-port",))
UPLOAD_LIMIT = Option("rest.server.max-content-length", SIZE, 256 * 2**20, "Largest upload that is taken.")
WEB_SUBMIT = Option("web.submit.enable", BOOL, True, "Allow code to be uploaded and run over REST.")
WEB_CANCEL = Option("web.cancel.enable", BOOL, True, "Shown to dashboards: whether they should offer to cancel jobs.")
ALLOWED_ORIGINS = Option(
    "rest.allowed-origins", TEXT, None,
    "Origins, with commas, whose web pages may submit and cancel jobs; those of REST itself may always.",
)  # fmt: skip
WEB_REFRESH = Option("web.refresh-interval", DURATION, 3_000, "How often dashboards ask.")
EXCEPTION_HISTORY = Option(
    "web.exception-history-size", COUNT, 16, "So many failures of a job are remembered to be shown."
)
CAPTURE_TIMEOUT = Option(
    "jobmanager.capture-timeout", DURATION, 120_000,
    "How long a submitted script may take to build its pipeline; and the functions of a job that starts from a "
    "savepoint or checkpoint to be opened, so that their state is compared before the start.",
)  # fmt: skip

# the cluster ---------------------------------------------------------------------------------------------------

CLUSTER_ID = Option(
    "cluster.id", TEXT, "default", "Name of the cluster: several can share one Ray cluster, and one machine."
)
CLUSTER_STORAGE = Option(
    "high-availability.storageDir", TEXT, None,
    "Where the cluster keeps its jobs, their code and their outcome: a directory or an object store's URL. Without it "
    ".penstock/cluster in the working directory. Jobs without a checkpoint directory of their own keep theirs there.",
)  # fmt: skip
RESUME_JOBS = Option(
    "high-availability.resume-jobs", BOOL, True,
    "Whether a cluster that starts takes up the jobs that its storage knows and that have not ended. A cluster that "
    "is started for one script does not: the script says with -s whether it goes on.",
)  # fmt: skip
LEASE = Option(
    "high-availability.lease-timeout", DURATION, 30_000,
    "A job master that shows no sign of life for so long, in the store, is replaced.",
)  # fmt: skip
BEAT = Option("high-availability.beat-interval", DURATION, 3_000, "How often a job master shows a sign of life there.")
JOB_STORE_CAPACITY = Option(
    "jobstore.max-capacity", COUNT, 100, "So many ended jobs are remembered; older ones are forgotten."
)
HEARTBEAT_INTERVAL = Option("heartbeat.interval", DURATION, 2_000, "How often processes of a cluster hear each other.")
HEARTBEAT_TIMEOUT = Option(
    "heartbeat.timeout", DURATION, 10_000, "A process that has not been heard for so long is given up."
)
SLOT_REQUEST_TIMEOUT = Option(
    "slot.request.timeout", DURATION, 300_000, "A job that does not get its slots in this time fails, with the reason."
)
RAY_ADDRESS = Option(
    "ray.address", TEXT, None, "An existing Ray cluster (host:port of its head) to run on; none: Ray is started."
)
RAY_TOKEN = Option(
    "ray.token-file", TEXT, None,
    "File with the token of that Ray cluster; without it RAY_AUTH_TOKEN, or Ray's own default file.",
)  # fmt: skip
RAY_HOST = Option(
    "ray.host", TEXT, None,
    "Address of this machine at which others reach the Ray that penstock starts; none: it is reachable from this "
    "machine alone, and no other node can join.",
)  # fmt: skip
RAY_PORT = Option("ray.port", INT, 0, "Port at which nodes join the Ray that penstock starts; 0 takes a free one.")

# task managers -------------------------------------------------------------------------------------------------

TASK_SLOTS = Option(
    "taskmanager.numberOfTaskSlots", INT, 0, "Slots of a node that penstock starts; 0: one for each core."
)
WARM_SLOTS = Option(
    "taskmanager.warm-slots", COUNT, 2,
    "Blank slot processes kept ready on each node, so that a job starts, or goes on after a death, without waiting.",
)  # fmt: skip
REGISTRATION_TIMEOUT = Option(
    "taskmanager.registration.timeout", DURATION, 300_000,
    "A node that joins a cluster, or whose head was lost, gives up when no head has answered for so long.",
)  # fmt: skip
MASTER_LOST_CANCEL = Option(
    "taskmanager.master-lost.cancel-after", DURATION, 60_000, "A slot without its job's master cancels its tasks then."
)
MASTER_LOST_EXIT = Option(
    "taskmanager.master-lost.exit-after", DURATION, 300_000, "A slot without its job's master ends its process then."
)
WORK_DIRECTORY = Option(
    "io.tmp.dirs", TEXT, None, "Where nodes keep sockets, logs, installed code and working files; none: the system's."
)
LOG_LEVEL = Option("env.log.level", one_of("debug", "info", "warning", "error"), "info", "Which lines go to the logs.")
DATA_HOST = Option("taskmanager.host", TEXT, None, "Address other nodes reach this one at; none: the one Ray knows.")

# object stores -------------------------------------------------------------------------------------------------

S3_ENDPOINT = Option(
    "s3.endpoint", TEXT, None, "URL of an S3 store that is not Amazon's; else AWS_ENDPOINT_URL, or the profile's."
)
S3_REGION = Option("s3.region", TEXT, None, "Region of the bucket; else AWS_REGION, or the profile's.")
S3_ACCESS_KEY = Option(
    "s3.access-key", TEXT, None,
    "With s3.secret-key: credentials for s3:// locations. Without them AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
    "profile in ~/.aws/credentials (AWS_PROFILE), or what the machine offers; better, since options are stored with "
    "their jobs.",
)  # fmt: skip
S3_SECRET_KEY = Option("s3.secret-key", TEXT, None, "See s3.access-key. Never shown.")
S3_PATH_STYLE = Option(
    "s3.path.style.access", TEXT, None,
    "true: the bucket is part of the path, false: of the host's name. Unset: true where there is an endpoint.",
    ("s3.path-style-access",),
)  # fmt: skip

# security ------------------------------------------------------------------------------------------------------

TLS_INTERNAL = Option("security.ssl.internal.enabled", BOOL, False, "Mutual TLS between slots of different nodes.")
TLS_CERTIFICATE = Option(
    "security.ssl.internal.certificate", TEXT, None, "PEM file: certificate of the nodes, signed by the authority."
)
TLS_KEY = Option("security.ssl.internal.key", TEXT, None, "PEM file: key of that certificate.")
TLS_AUTHORITY = Option("security.ssl.internal.authority", TEXT, None, "PEM file: whose certificates are trusted.")
