"""The demo's guests: unmodified Debian programs that have never heard of a mesh.

    orders    nginx, and ZooKeeper's own C client, which registers it
    billing   nginx, and avahi-daemon, which announces it
    shopper   curl; it announces nothing and only looks names up
"""

from guest import GuestImage

NGINX_CONF = """worker_processes 1;
error_log /dev/null;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
  access_log off;
  keepalive_timeout 60;
  server {
    listen 8080;
    listen [::]:8080;
    location / { default_type text/plain; return 200 "hello from $hostname, secret 7f3a9c51\\n"; }
    location = /slow { default_type text/plain; limit_rate 20; return 200 "a slow hello from $hostname, secret 7f3a9c51\\n"; }
  }
}
"""

BILLING_SERVICE = """<?xml version="1.0" standalone='no'?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>billing</name><service><type>_http._tcp</type><port>8080</port><txt-record>path=/</txt-record></service></service-group>
"""

AVAHI_CONF = """[server]
use-ipv4=yes
use-ipv6=yes
enable-dbus=yes
[publish]
publish-workstation=no
"""

# Written as a user of ZooKeeper would: the parents once, an ephemeral node, then its data.
INIT = """
mkdir -p /var/log/nginx /var/lib/nginx /run/dbus /run/avahi-daemon
case $(arg role) in
orders|billing) nginx -c /etc/nginx.conf;;
esac
case $(arg role) in
orders)
  ip=$(arg vmip); ip=${ip%/*}; svc=$(arg service); me=$(hostname)
  ( while ! [ -e /run/register ]; do sleep 0.05; done
    echo "create /services"; echo "create /services/$svc"
    echo "create +e /services/$svc/$me"
    echo "set /services/$svc/$me {\\"name\\":\\"$svc\\",\\"id\\":\\"$me\\",\\"address\\":\\"$ip\\",\\"port\\":8080}"
    sleep 1000000 ) | /usr/lib/zookeeper/bin/cli_mt $(arg zk) > /run/zk.log 2>&1 &
  [ -n "$(arg hold)" ] || touch /run/register;;
billing)
  ( while ! [ -e /run/register ]; do sleep 0.05; done
    dbus-daemon --system --fork; avahi-daemon -D --no-chroot --no-drop-root --no-rlimits ) &
  [ -n "$(arg hold)" ] || touch /run/register;;
esac
"""


def image(cache_dir):
    """One image for all roles; the role is on the kernel's command line."""
    import glob
    files = {
        "/etc/nginx.conf": NGINX_CONF,
        "/etc/avahi/services/billing.service": BILLING_SERVICE,
        "/etc/avahi/avahi-daemon.conf": AVAHI_CONF,
        "/etc/resolv.conf": "",
    }
    for path in ["/usr/share/dbus-1/system.conf"] + glob.glob("/usr/share/dbus-1/system.d/*avahi*") + glob.glob("/etc/dbus-1/system.d/*avahi*"):
        with open(path) as f:
            files[path] = f.read()
    programs = ["/usr/sbin/nginx", "/usr/bin/curl", "/usr/bin/dbus-daemon", "/usr/sbin/avahi-daemon", "/usr/lib/zookeeper/bin/cli_mt"]
    return GuestImage(cache_dir, "demo", init=INIT, programs=programs, files=files)
