"""Settings of a Django project. The forward is open as long as the process runs."""

import contextlib

from hybridrelay import forward_in_thread, load_connection_string

# Kept in a variable of this module, so that the forward stays open as long as the process runs. With the servers that
# fork, such as gunicorn, each worker imports this module and has its own forward; with --preload, all use that of the
# main process.
_open = contextlib.ExitStack()
_host, _port = _open.enter_context(forward_in_thread(load_connection_string("application.txt")))

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _host,
        "PORT": _port,
        "USER": "postgres",
        "NAME": "postgres",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,  # replaces a connection that was reset
    }
}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "from your own store of secrets"
USE_TZ = True
