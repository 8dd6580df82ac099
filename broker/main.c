/* vhotplug-broker: wires the parts and runs the loop. */
#include <getopt.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "broker/attend.h"
#include "broker/choice.h"
#include "broker/control_broker.h"
#include "broker/home.h"
#include "broker/log.h"
#include "broker/manager.h"
#include "broker/reconcile.h"
#include "broker/record.h"
#include "broker/service.h"
#include "broker/snapshot.h"
#include "conf/load.h"
#include "helper/root.h"
#include "helper/text.h"

#define MAX_DESCRIPTORS 65536

struct broker {
	struct home home;
	char config_path[300];
	struct stat config_stat; /* of the config file when it was last looked into, … */
	char config_digest[CONFIG_DIGEST_SIZE]; /* … and what was there; "": nothing of use */
	int signal_fd;
	int clock_fd;
	struct loop *loop;
	struct loop_source *signals, *clock;
	struct worker *worker;
	struct store *store;
	struct intake *intake;
	struct choices *choices;
	struct control_broker *control;
	struct snapshot *snapshot;
	struct manager manager;
	bool managing;
	struct attend attend;
	bool exit_when_idle;
	int lost; /* why it can't go on: -errno */
};

static const char usage[] =
	"Usage: vhotplug-broker [-d] [-c FILE] [--exit-when-idle]\n"
	"Moves devices into virtual machines as udev's rules say; see vhotplug-broker(8).\n"
	"  -c, --config FILE  the config (default " VHOTPLUG_CONFDIR "/vhotplug.conf)\n"
	"  -d, --debug        say more\n"
	"      --exit-when-idle  end when there is nothing to do\n"
	"  -h, --help         this text\n"
	"      --version      the version\n";

/* Returns 0 to go on, or 1 + the exit status. */
static int parse_arguments(struct broker *broker, int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},   {"debug", no_argument, NULL, 'd'},
		{"exit-when-idle", no_argument, NULL, 'e'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},        {NULL, 0, NULL, 0},
	};
	bool debug = false;
	int option, r = 0;

	while ((option = getopt_long(argc, argv, "c:dh", options, NULL)) != -1)
		switch (option) {
		case 'c':
			r = text_path(broker->config_path, sizeof(broker->config_path), "%s",
				      optarg);
			break;
		case 'd':
			debug = true;
			break;
		case 'e':
			broker->exit_when_idle = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case 'V':
			puts("vhotplug-broker " VHOTPLUG_VERSION);
			return 1;
		default:
			return 1 + 2;
		}
	if (r < 0) {
		fprintf(stderr, "vhotplug-broker: the path of the config is too long\n");
		return 1 + 2;
	}
	if (optind < argc) {
		fprintf(stderr, "vhotplug-broker: what is \"%s\"? See --help.\n", argv[optind]);
		return 1 + 2;
	}
	log_init(debug);
	return 0;
}

static int find_config(struct broker *broker)
{
	char directory[HOME_PATH_SIZE];

	if (broker->config_path[0])
		return 0;
	int r = service_directory("CONFIGURATION_DIRECTORY", VHOTPLUG_CONFDIR, directory,
				  sizeof(directory));
	if (r == 0)
		r = text_path(broker->config_path, sizeof(broker->config_path), "%s/vhotplug.conf",
			      directory);
	if (r < 0)
		log_error("can't use the directory of the config: %s", strerror(-r));
	return r;
}

/* Devices, VMs and helpers have descriptors here; 1024, the usual limit, are few. */
static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max < MAX_DESCRIPTORS ? limit.rlim_max : MAX_DESCRIPTORS;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static int read_boot_id(char *ret, size_t size)
{
	return root_read(ret, size, "/proc/sys/kernel/random/boot_id");
}

/* Mistakes go into the log, if SAYS, and not to stderr, which may have nobody who reads it. */
static int load_again(const char *path, bool says, struct config **ret_config)
{
	_cleanup_free_ char *mistakes = NULL;
	size_t size = 0;
	FILE *stream = open_memstream(&mistakes, &size);

	if (!stream)
		return -ENOMEM;
	int r = config_load(path, stream, ret_config);

	fclose(stream);
	for (char *next = mistakes, *line; says && r < 0 && (line = strsep(&next, "\n"));)
		if (*line)
			log_error("%s", line);
	return r;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       memcmp(&a->st_mtim, &b->st_mtim, sizeof(a->st_mtim)) == 0 &&
	       memcmp(&a->st_ctim, &b->st_ctim, sizeof(a->st_ctim)) == 0;
}

/* The file is read once for each time that it changes. */
static bool is_in_file(void *data, const char *digest)
{
	struct broker *broker = data;
	_cleanup_(config_freep) struct config *config = NULL;
	struct stat st;

	if (stat(broker->config_path, &st) < 0)
		return false;
	if (!is_same_file(&st, &broker->config_stat)) {
		int r = load_again(broker->config_path, false, &config);

		broker->config_stat = st;
		strcpy(broker->config_digest, r == 0 ? config->digest : "");
	}
	return streq(broker->config_digest, digest);
}

static int reload_config(void *data)
{
	struct broker *broker = data;
	struct config *config = NULL;
	int r = load_again(broker->config_path, true, &config);

	if (r < 0) {
		log_error("%s has mistakes: the config stays as it was", broker->config_path);
		manager_resync(&broker->manager);
		return r;
	}
	log_info("%s: read again", broker->config_path);
	home_admit(&broker->home, config->general.group);
	snapshot_set_readers(broker->snapshot, broker->home.readers);
	manager_set_config(&broker->manager, config);
	control_broker_reload(broker->control, broker->home.readers);
	return 0;
}

static void handle_signal(void *data, uint32_t events)
{
	struct broker *broker = data;
	struct signalfd_siginfo info;

	(void) events;
	while (read(broker->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			(void) reload_config(broker);
		else
			loop_quit(broker->loop);
	}
}

static int watch_signals(struct broker *broker)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	broker->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (broker->signal_fd < 0)
		return -errno;
	return loop_add(broker->loop, broker->signal_fd, EPOLLIN, handle_signal, broker,
			&broker->signals);
}

/* The wall clock has jumped, which it does when the host wakes up: devices may have come and gone,
 * and VMs been paused, with nobody to tell. Source: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET. */
static int arm_clock(struct broker *broker)
{
	struct itimerspec never = {.it_value.tv_sec = (time_t) INT64_MAX / 1000000000};

	if (timerfd_settime(broker->clock_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never,
			    NULL) < 0 &&
	    errno != ECANCELED)
		return -errno;
	return 0;
}

static void clock_jumped(void *data, uint32_t events)
{
	struct broker *broker = data;
	uint64_t expirations;

	(void) events;
	if (read(broker->clock_fd, &expirations, sizeof(expirations)) < 0 && errno == ECANCELED)
		log_info("the clock has jumped (the host may have slept): looking at every device");
	arm_clock(broker);
	manager_resync(&broker->manager);
}

static int watch_clock(struct broker *broker)
{
	broker->clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (broker->clock_fd < 0)
		return -errno;
	int r = arm_clock(broker);
	return r < 0 ? r
		     : loop_add(broker->loop, broker->clock_fd, EPOLLIN, clock_jumped, broker,
				&broker->clock);
}

/* The database is another one now: what is known is written to it. Nobody is told of new states,
 * and nobody moves. */
static void follow_database(struct broker *broker)
{
	const char *path = store_path(broker->store);

	for (struct device *d = broker->manager.registry.devices; d; d = d->next)
		record_save(&broker->manager.registry, d);
	choices_save(broker->choices);
	snapshot_follow(broker->snapshot, path);
	if (home_follow(&broker->home, broker->loop, path) < 0)
		log_warning("%s can't be watched", path);
}

/* Events first: they and what they change are on disk together, and then their helpers go. */
static void pass_end(void *data)
{
	struct broker *broker = data;

	/* What can't be kept is not acknowledged: the helpers spool it. */
	if (broker->lost < 0)
		return;
	intake_flush(broker->intake);
	/* An answer speaks of what is on disk, and may bring the next request of its client. */
	do {
		reconcile_pass(&broker->manager.registry);
		store_flush(broker->store);
	} while (control_broker_pass(broker->control));
	store_flush(broker->store);
	intake_settle(broker->intake, store_lost_events(broker->store) == 0);
	if (snapshot_takes_damage(broker->snapshot))
		store_distrust(broker->store);
	if (store_mend(broker->store)) {
		follow_database(broker);
		store_flush(broker->store);
	}
	snapshot_touch(broker->snapshot);
	attend_pass_end(&broker->attend);
}

/* Whether somebody is still to answer: the worker, a VMM, a guest. */
static bool is_awaiting(const struct registry *registry)
{
	for (const struct device *d = NULL; (d = registry_find_unsettled(registry, d));) {
		enum device_state state = d->record.state;

		if (state == DEVICE_OPENING || state == DEVICE_ATTACHING ||
		    state == DEVICE_RELEASING || state == DEVICE_DETACHING ||
		    d->attempt.request != 0)
			return true;
	}
	return false;
}

/* Whether nobody else would notice: somebody is connected, or may connect to a socket that is only
 * ours ([api]); what is suspended goes back when its VM ends; with persistency = no, what a person
 * has said of a device ends when we do; a VM answers at last, whose monitor another client has had,
 * say. */
static bool is_needed(const struct broker *broker)
{
	const struct registry *registry = &broker->manager.registry;
	const struct config *config = broker->manager.config;

	if (config->api.line > 0)
		return true;
	for (const struct vm *vm = registry->vms; vm; vm = vm->next)
		if (vm->is_probing)
			return true;
	for (const struct device *d = NULL; (d = registry_find_unsettled(registry, d));)
		if (d->record.state == DEVICE_SUSPENDED ||
		    (!config->general.persistency && choice_would_end(d)))
			return true;
	return control_broker_is_used(broker->control);
}

/* Or a VM may start that nobody else can see: one that has no socket of its own, or dials in. */
static bool is_busy(void *data)
{
	struct broker *broker = data;
	const struct config *config = broker->manager.config;

	if (broker->manager.query || is_awaiting(&broker->manager.registry))
		return true;
	for (size_t i = 0; i < config->n_vms; i++)
		if (config->vms[i].listen || !config->vms[i].socket)
			return true;
	return broker->exit_when_idle && is_needed(broker);
}

/* Whoever starts us again finds a new database, and the VMs tell what they have. */
static void home_lost(void *data, const char *why)
{
	struct broker *broker = data;

	log_error("%s", why);
	broker->lost = -ESTALE;
	loop_quit(broker->loop);
}

static void note_written(void *data, int64_t row)
{
	snapshot_note(data, row);
}

/* The loop, and the database with what hangs on it. */
static int open_home(struct broker *broker, const char *boot_id)
{
	int r = loop_new(&broker->loop);

	if (r == 0)
		r = watch_signals(broker);
	if (r == 0)
		r = watch_clock(broker);
	if (r == 0)
		r = store_open(broker->loop, broker->home.database, broker->home.refuge, boot_id,
			       &broker->store);
	if (r == 0)
		r = home_watch(&broker->home, broker->loop, store_path(broker->store), home_lost,
			       broker);
	if (r == 0)
		r = snapshot_new(broker->loop, broker->home.database, broker->home.public_copy,
				 broker->home.readers, &broker->snapshot);
	if (r == 0)
		store_observe(broker->store, note_written, broker->snapshot);
	return r;
}

/* Takes CONFIG over. */
static int start_broker(struct broker *broker, struct config *config)
{
	char boot_id[40];
	int listen_fd = service_listen_fd();
	bool is_passed = listen_fd >= 0;
	int r = listen_fd < -1 ? listen_fd : read_boot_id(boot_id, sizeof(boot_id));

	if (r == 0)
		r = open_home(broker, boot_id);
	if (r < 0) {
		config_free(config);
		return r;
	}
	r = manager_init(&broker->manager, broker->loop, broker->worker, broker->store, config,
			 boot_id);
	broker->managing = true;
	if (r == 0)
		r = choices_new(broker->store, config->general.persistency, &broker->choices);
	broker->manager.registry.choices = broker->choices;
	if (r == 0)
		r = manager_load(&broker->manager);
	if (r == 0)
		r = intake_new(broker->loop, broker->home.run_directory, listen_fd, broker->store,
			       &manager_intake, &broker->manager, &broker->intake);
	if (r == 0)
		r = control_broker_new(&broker->manager, broker->home.run_directory,
				       broker->config_path, broker->home.readers, &broker->control);
	if (r < 0)
		return r;
	broker->manager.reload = reload_config;
	broker->manager.reload_data = broker;
	broker->manager.edition.is_in_file = is_in_file;
	broker->manager.edition.data = broker;
	/* Without a socket for it, whoever has started it has spooled his event first. */
	broker->manager.spool_starts = broker->exit_when_idle && !is_passed;
	intake_drain_spool(broker->intake);
	manager_start(&broker->manager);
	loop_set_pass_end(broker->loop, pass_end, broker);
	service_notify("READY=1");
	attend_start(&broker->attend, broker->loop, broker->exit_when_idle, is_busy, broker);
	log_info("ready: %zu VMs, config %s (%s)", broker->manager.config->n_vms,
		 broker->config_path, broker->manager.config->digest);
	return 0;
}

static void stop_broker(struct broker *broker)
{
	service_notify("STOPPING=1");
	attend_stop(&broker->attend);
	control_broker_free(broker->control);
	/* Devices hold helpers that wait for their answer. */
	if (broker->managing)
		manager_finish(&broker->manager);
	intake_free(broker->intake);
	choices_free(broker->choices);
	store_close(broker->store);
	snapshot_free(broker->snapshot);
	home_finish(&broker->home);
	worker_free(broker->worker);
	loop_source_free(broker->signals);
	loop_source_free(broker->clock);
	loop_free(broker->loop);
	close_fd(broker->signal_fd);
	close_fd(broker->clock_fd);
}

int main(int argc, char **argv)
{
	static struct broker broker; /* large: what is not touched takes no memory */
	struct config *config = NULL;
	int r = parse_arguments(&broker, argc, argv);

	broker.signal_fd = broker.clock_fd = -1;
	if (r > 0)
		return r - 1;
	signal(SIGPIPE, SIG_IGN); /* whoever reads the log may go */
	raise_limits();
	if (home_init(&broker.home) < 0 || find_config(&broker) < 0 || home_lock(&broker.home) < 0)
		return 1;
	r = worker_start(&broker.worker); /* now it has nothing of ours yet */
	if (config_load(broker.config_path, stderr, &config) < 0) {
		worker_free(broker.worker);
		home_finish(&broker.home);
		return 1;
	}
	home_admit(&broker.home, config->general.group);
	home_protect(&broker.home);
	if (r == 0)
		r = start_broker(&broker, config);
	else
		config_free(config);
	if (r == 0)
		r = loop_run(broker.loop);
	if (r == 0)
		r = broker.lost;
	if (r < 0)
		log_error("can't go on: %s", strerror(-r));
	stop_broker(&broker);
	return r < 0 ? 1 : 0;
}
