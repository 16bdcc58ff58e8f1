// Command mochi is the bare broker that test/bench sets beside levee-broker: the
// library's own listener, the TLS configuration of a levee broker's bundle, and a
// hook that lets everybody do everything. It guarantees nothing and is never
// shipped.
package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/internal/config"
	"levee/internal/site"
	"levee/pki"
)

func main() {
	bundle := flag.String("bundle", "", "the broker's bundle")
	listen := flag.String("listen", "", "host:port")
	profile := flag.String("profile", "", "file for a CPU profile")
	flag.Parse()
	if err := run(*bundle, *listen, *profile); err != nil {
		slog.Error("bare mochi", slog.Any("error", err))
		os.Exit(1)
	}
}

func run(bundle, listen, profile string) (err error) {
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(bundle), Evaluation: true}, time.Now())
	if err != nil {
		return err
	}
	store, err := pki.OpenStore(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain), trust.Verifier)
	if err != nil {
		return err
	}
	if profile != "" {
		file, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	err = errors.Join(
		server.AddHook(new(allow), nil),
		server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: listen, TLSConfig: pki.ServerConfig(store, trust.Verifier)})),
	)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	if err := server.Serve(); err != nil {
		return err
	}
	<-stop
	return server.Close()
}

// allow is the library's own hook for that, without what comes with it.
type allow struct{ mqtt.HookBase }

func (*allow) ID() string { return "allow" }

func (*allow) Provides(method byte) bool {
	return method == mqtt.OnConnectAuthenticate || method == mqtt.OnACLCheck
}

func (*allow) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*allow) OnACLCheck(*mqtt.Client, string, bool) bool { return true }
