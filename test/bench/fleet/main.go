//go:build linux

// Command fleet is many sensors of one site in one process, each with a key, a
// certificate and a session of its own (internal/session, as a sensor has it), for
// test/bench. It makes them with the authority's own keys, which no sensor has.
// It guarantees that it ends when its standard input does, and is never shipped.
//
// It does what lines of its input say, and writes a line of JSON each second and
// for each report:
//
//	connect D     every sensor begins to connect, one after the other within D
//	publish N D   every sensor publishes N readings at one moment, each D
//	report        say how many readings each sensor has published
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"levee/envelope/keys"
	"levee/envelope/ownkey"
	"levee/internal/config"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

func main() {
	f := &fleet{out: json.NewEncoder(os.Stdout)}
	flag.StringVar(&f.authority, "authority", "", "the deployer's directory of the site")
	flag.StringVar(&f.bundle, "bundle", "", "any bundle of the site")
	flag.StringVar(&f.scratch, "scratch", "", "an empty directory, for what sensors keep")
	flag.StringVar(&f.address, "address", "", "of the broker, host:port")
	flag.IntVar(&f.first, "first", 0, "number of the first sensor")
	flag.IntVar(&f.count, "count", 1, "how many")
	flag.Parse()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		os.Exit(0)
	}()
	if err := f.run(); err != nil {
		slog.Error("the fleet", slog.Any("error", err))
		os.Exit(1)
	}
}

// fleet is all sensors of this process.
type fleet struct {
	authority, bundle, scratch, address string
	first, count                        int

	sensors []*ship
	beat    atomic.Pointer[beat]
	counts  tally

	mu  sync.Mutex // of out
	out *json.Encoder
}

// beat is what every sensor publishes, and how often.
type beat struct {
	readings int
	each     time.Duration
}

// ship is one sensor.
type ship struct {
	site, name string
	session    *session.Session
	published  atomic.Int64
}

// Second is one line of output each second.
type Second struct {
	Unix      int64            `json:"unix"`
	Connected int64            `json:"connected"`         // since the last line
	Failed    map[string]int64 `json:"failed,omitempty"`  // attempts and connections that ended since, by kind
	Online    int              `json:"online"`            // now
	Published int64            `json:"published"`         // in all
	Dropped   uint64           `json:"dropped"`           // given up unsent, in all; digests too
	Behind    float64          `json:"behind,omitempty"`  // seconds that publishing is late
	Reports   []int64          `json:"reports,omitempty"` // of each sensor, how many readings were published
	Made      bool             `json:"made,omitempty"`    // the sensors are there
}

func (f *fleet) say(s Second) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.out.Encode(s) // whoever reads it may be gone
}

func (f *fleet) run() error {
	if err := f.make(); err != nil {
		return err
	}
	f.beat.Store(&beat{})
	f.say(Second{Made: true})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go f.watch(ctx)
	go f.publish(ctx)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var do string
		var n int
		var each time.Duration
		switch _, _ = fmt.Sscan(lines.Text(), &do); do {
		case "connect":
			within, err := time.ParseDuration(lines.Text()[len(do)+1:])
			if err != nil {
				return err
			}
			go f.connect(ctx, within)
		case "publish":
			var text string
			if _, err := fmt.Sscan(lines.Text(), &do, &n, &text); err != nil {
				return err
			}
			var err error
			if each, err = time.ParseDuration(text); err != nil {
				return err
			}
			f.beat.Store(&beat{readings: n, each: each})
		case "report":
			s := Second{Unix: time.Now().Unix()}
			for _, one := range f.sensors {
				s.Reports = append(s.Reports, one.published.Load())
			}
			f.say(s)
		default:
			return fmt.Errorf("unknown order %q", lines.Text())
		}
	}
	return lines.Err() // sessions end as in a crash: nobody waits for their last digests
}

// make makes the sensors: keys, certificates, sessions.
func (f *fleet) make() error {
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(f.bundle), Evaluation: true}, time.Now())
	if err != nil {
		return err
	}
	document := *trust.Document
	if len(document.Brokers) != 1 {
		return errors.New("the site has not one broker")
	}
	document.Brokers = []site.Broker{{Name: document.Brokers[0].Name, Address: f.address}}
	trust.Document = &document
	issuer := ca.Issuer{}
	if issuer.Certificate, err = pki.ReadCertificate(filepath.Join(f.authority, "machine-ca.pem")); err != nil {
		return err
	}
	if issuer.Signer, err = ca.OpenKey(filepath.Join(f.authority, "machine-ca.key"), nil); err != nil {
		return err
	}
	siteKey, err := keys.LoadSite(filepath.Join(f.authority, "site.key"))
	if err != nil {
		return err
	}
	role, err := siteKey.Role(pki.RoleSensor)
	if err != nil {
		return err
	}
	f.sensors = make([]*ship, f.count)
	var making sync.WaitGroup
	errs := make(chan error, runtime.GOMAXPROCS(0))
	for worker := range cap(errs) {
		making.Go(func() {
			for i := worker; i < f.count; i += cap(errs) {
				s, err := f.launch(i, trust, issuer, role)
				if err != nil {
					errs <- err
					return
				}
				f.sensors[i] = s
			}
		})
	}
	making.Wait()
	close(errs)
	return <-errs
}

// launch makes one sensor.
func (f *fleet) launch(i int, trust *site.Trust, issuer ca.Issuer, role keys.RoleKey) (*ship, error) {
	id := pki.Identity{TrustDomain: trust.Verifier.TrustDomain(), Site: trust.Document.Site, Role: pki.RoleSensor, Name: fmt.Sprintf("fleet-%d", f.first+i)}
	key, err := pki.NewKey(id.Role)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{}, 24*time.Hour, time.Now())
	if err != nil {
		return nil, err
	}
	keyPEM, chain, err := pki.MarshalCredential(key, leaf, issuer.Certificate)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(f.scratch, id.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{site.FileKey: keyPEM, site.FileChain: chain} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	bundle := &site.Bundle{Trust: *trust, Identity: id, State: dir}
	if bundle.Credentials, err = pki.OpenStore(filepath.Join(dir, site.FileKey), filepath.Join(dir, site.FileChain), trust.Verifier); err != nil {
		return nil, err
	}
	own, err := role.Sender(id.Name, 1)
	if err != nil {
		return nil, err
	}
	ring, err := ownkey.NewRing(own)
	if err != nil {
		return nil, err
	}
	s := &ship{site: id.Site, name: id.Name}
	s.session, err = session.New(session.Config{Bundle: bundle, Ring: ring, Log: slog.New(&f.counts)})
	return s, err
}

func (f *fleet) connect(ctx context.Context, within time.Duration) {
	began := time.Now()
	for i, s := range f.sensors {
		time.Sleep(time.Until(began.Add(time.Duration(i) * within / time.Duration(len(f.sensors)))))
		go func() {
			if err := s.session.Run(ctx); err != nil {
				slog.Error("a session ended", slog.String("sensor", s.name), slog.Any("error", err))
			}
		}()
	}
}

// reading is what a sensor sends of its network, with a number of its own.
type reading struct {
	wire.Network
	Reading int64 `json:"reading"` // from 1
}

// kinds are what the readings of one moment are of. All have the same payload: the broker
// and the session do not look into it.
var kinds = [3]wire.Kind{wire.KindNetwork, wire.KindCPU, wire.KindRAM}

// publish lets the sensors publish, one after the other.
func (f *fleet) publish(ctx context.Context) {
	next := time.Now()
	for i := 0; ctx.Err() == nil; i = (i + 1) % len(f.sensors) {
		b := f.beat.Load()
		if b.readings == 0 {
			time.Sleep(10 * time.Millisecond)
			next = time.Now()
			continue
		}
		time.Sleep(time.Until(next))
		f.counts.behind.Store(int64(time.Since(next)))
		next = next.Add(b.each / time.Duration(len(f.sensors)))
		s, now := f.sensors[i], float64(time.Now().UnixMicro())/1e6
		for _, kind := range kinds[:b.readings] {
			n := s.published.Load() + 1
			topic := wire.Topic{Kind: kind, Site: s.site, Role: string(pki.RoleSensor), Name: s.name}
			r := reading{Network: wire.Network{Timestamp: now, Server: s.name, Interval: 5, ActiveTCPConnections: 84, SYNMethod: wire.SYNNFTables}, Reading: n}
			if err := s.session.Publish(topic, r); err != nil {
				slog.Error("publishing", slog.String("sensor", s.name), slog.Any("error", err))
				continue
			}
			s.published.Store(n)
		}
	}
}

func (f *fleet) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		now := <-tick.C
		s := Second{Unix: now.Unix(), Behind: time.Duration(f.counts.behind.Load()).Seconds()}
		s.Connected, s.Failed = f.counts.take()
		for _, one := range f.sensors {
			if one.session.Online() {
				s.Online++
			}
			_, dropped := one.session.Losses()
			s.Dropped += dropped
			s.Published += one.published.Load()
		}
		f.say(s)
	}
}
