package console

import (
	"math"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/test/alone"
	"levee/test/processes"
)

const markup = `<img src=x onerror=alert(1)><script>alert(2)</script>`

// One evening of an operator: calm, a flood, a hostile guest, the broker gone
// and back, and nothing on the page that its policy forbids.
func TestConsole(t *testing.T) {
	if !alone.Run(t, processes.Binaries+"="+bin) {
		return
	}
	b := newBank(t)
	page := openBrowser(t)
	console := b.daemon(t, pki.RoleConsole, "desk-1")
	await(t, "the page answers", func() bool { return dials(b.page) })

	// The page is there before any broker is, and says so.
	page.view(t, 1440, 900, "light")
	page.do(t, request{"do": "goto", "url": "http://" + b.page + "/"})
	page.awaitText(t, 20*time.Second, "#banner", "Disconnected from the broker")

	broker := b.daemon(t, pki.RoleBroker, "broker-1")
	b.daemon(t, pki.RoleController, "lb-1")
	b.daemon(t, pki.RoleMonitor, "mon-1")
	b.daemon(t, pki.RoleSensor, "web-1")
	b.sensor(t, "web-2", func(i int) (cpu, ram float64, syn, connections uint64) {
		x := float64(i)
		return 34 + 9*math.Sin(x/9) + 4*math.Sin(x*1.7), 58 + 2*math.Sin(x/31), uint64(9 + 5*math.Sin(x/5) + 3*math.Sin(x*2.3)), uint64(61 + 12*math.Sin(x/13))
	})
	b.sensor(t, "web-3", func(i int) (cpu, ram float64, syn, connections uint64) {
		x := float64(i)
		if i%20 == 3 { // no sensor of ours says so: it is refused
			return 21, 144, 14, 48
		}
		return 21 + 6*math.Sin(x/6+1) + 5*math.Sin(x*2.1), 44 + 3*math.Sin(x/23), uint64(14 + 6*math.Sin(x/7+2) + 4*math.Sin(x*1.3)), uint64(48 + 9*math.Sin(x/11))
	})
	page.awaitText(t, 60*time.Second, "#broker", "broker connected")
	page.awaitText(t, 10*time.Second, "#fresh", "live")
	await(t, "three servers have a row", func() bool { return page.count(t, ".server") == 3 })
	await(t, "the banner tells of the servers, or of what this busy machine does to one", func() bool {
		text := page.text(t, "#banner")
		return strings.Contains(text, "No incident open. 3 servers reporting.") || strings.Contains(text, "CPU usage exceeded threshold on web-1")
	})
	page.awaitText(t, 30*time.Second, ".server", "web-1", "SYN/s", "confirmed by its digest")
	if n := page.count(t, ".server .plot canvas"); n != 9 {
		t.Errorf("%d charts of three servers", n)
	}
	page.awaitText(t, 40*time.Second, "#checks", "content ")
	hostile(t, b, page)
	if wait := pause(t); wait > 0 { // for pictures with a past
		time.Sleep(wait)
	}
	page.shot(t, "calm-light", false)
	flood(t, b, page)
	requests(t, page)
	clearing(t, page)
	outage(t, b, page, broker)
	noise(t, b, page)

	for _, problem := range page.problems(t) {
		t.Errorf("the browser says: %s", problem)
	}
	console.Stop(t)
	page.awaitText(t, 30*time.Second, "#banner", "Disconnected from the console")
	page.shot(t, "console-gone", false)
}

// hostile shows a public message full of markup as the text that it is.
func hostile(t *testing.T, b *bank, page *browser) {
	t.Helper()
	lobby := b.guest(t, "lobby")
	say(t, lobby, "public/lobby", "Lift B is out of order until 18:00.")
	say(t, lobby, "public/lobby", markup)
	page.awaitText(t, 20*time.Second, "#public", markup)
	if n := page.count(t, "#public img, #public script, main script"); n != 0 {
		t.Errorf("a public message made %d elements", n)
	}
}

// flood attacks the balancer: the page tells of the alert, of the command that
// answers it and of what the controller says.
func flood(t *testing.T, b *bank, page *browser) {
	t.Helper()
	drill := exec.Command(filepath.Join(bin, "levee"), "drill", "flood", "--target", b.balancer, "--rate", "600", "--duration", "25s")
	done := make(chan string, 1)
	go func() {
		out, _ := drill.CombinedOutput()
		done <- string(out)
	}()
	page.awaitText(t, 30*time.Second, "#alerts", "open", "SYN packet count exceeded threshold", "web-1", "verified")
	page.awaitText(t, 30*time.Second, "#commands", "in force", "rate limiting", "web-1 of lb-1", "monitor mon-1", "verified")
	page.awaitText(t, 10*time.Second, "#banner", "open: ", "exceeded threshold on web-1", "ate limiting in force on web-1, ends in 0:")
	page.awaitText(t, 10*time.Second, "#announce", "exceeded threshold on web-1")
	if title := eval[string](t, page, "document.title"); !strings.HasPrefix(title, "(") {
		t.Errorf("during an incident the title is %q", title)
	}
	time.Sleep(6 * time.Second) // for a picture of it
	uncut(t, page)
	for _, colour := range []string{"light", "dark"} {
		page.view(t, 1440, 900, colour)
		page.shot(t, "flood-"+colour, false)
		page.shot(t, "flood-"+colour+"-whole", true)
		page.view(t, 390, 844, colour)
		page.shot(t, "flood-"+colour+"-narrow", true)
	}
	page.view(t, 1440, 900, "dark")
	for _, tab := range []string{"cpu", "network", "alerts", "commands", "public"} {
		page.click(t, `.tabs a[href="#`+tab+`"]`)
		time.Sleep(500 * time.Millisecond)
		page.shot(t, "tab-"+tab, false)
	}
	page.click(t, `.tabs a[href="#overview"]`)
	page.do(t, request{"do": "view", "width": 1440, "height": 900, "colour": "dark", "forced": true})
	time.Sleep(500 * time.Millisecond)
	page.shot(t, "forced-colors", false)
	page.view(t, 1440, 900, "light")
	if text := <-done; !strings.Contains(text, "first refusal after") {
		t.Errorf("the drill reports:\n%s", text)
	}
	page.awaitText(t, 60*time.Second, "#alerts", "ended")
	page.shot(t, "after", false)
}

// requests opens the two dialogs: each shows a command line and sends nothing.
func requests(t *testing.T, page *browser) {
	t.Helper()
	for button, command := range map[string]string{"#limit": "enable_rate_limiting", "#scale": "scale_up_servers"} {
		page.click(t, button)
		page.awaitText(t, 5*time.Second, "#request[open]", "levee command request "+command+" --site melb --server web-", ` --ttl 15m --reason "..."`, "no levee command yet")
		page.shot(t, "dialog-"+command, false)
		page.do(t, request{"do": "key", "key": "Escape"})
		if page.count(t, "#request[open]") != 0 {
			t.Error("Escape does not close the dialog")
		}
	}
}

// clearing hides what has been shown, in this tab, and shows it again.
func clearing(t *testing.T, page *browser) {
	t.Helper()
	before := page.count(t, "#alerts tr")
	if before == 0 {
		t.Fatal("no alert to hide")
	}
	page.click(t, "#clear")
	page.awaitText(t, 5*time.Second, "#cleared", "Records are not touched")
	await(t, "no row is left", func() bool { return page.count(t, "#alerts tr, #public tr") == 0 })
	page.shot(t, "cleared", false)
	page.click(t, "#restore")
	await(t, "the rows are back", func() bool { return page.count(t, "#alerts tr") == before })
}

// outage kills the broker: the page says so, keeps what it has, and comes back.
func outage(t *testing.T, b *bank, page *browser, broker *processes.Process) {
	t.Helper()
	broker.Kill(t)
	page.awaitText(t, 30*time.Second, "#banner", "Disconnected from the broker since")
	page.awaitText(t, 5*time.Second, "#broker", "broker disconnected")
	page.awaitText(t, 30*time.Second, ".server", "silent for")
	if page.count(t, `body[data-old="true"] .server .plot canvas`) != 9 || page.count(t, "#alerts tr") == 0 {
		t.Error("data is gone, and not only grey")
	}
	page.shot(t, "broker-gone-light", false)
	page.view(t, 1440, 900, "dark")
	page.shot(t, "broker-gone-dark", false)
	page.view(t, 1440, 900, "light")
	b.daemon(t, pki.RoleBroker, "broker-1")
	page.awaitText(t, 90*time.Second, "#broker", "broker connected")
	await(t, "nothing is grey any more", func() bool { return page.count(t, `body[data-old="true"], .server[data-state="old"]`) == 0 })
}

// noise floods the public topics: the page stays bounded, goes on, and says
// what it leaves out.
func noise(t *testing.T, b *bank, page *browser) {
	t.Helper()
	for _, name := range []string{"noise-1", "noise-2", "noise-3", "noise-4"} {
		loud := b.guest(t, name)
		go func() { // ends with the connection
			for i := 0; ; i++ {
				if loud.Send(publishPublic("public/noise", strconv.Itoa(i)+" "+strings.Repeat(markup, 20))) != nil {
					return
				}
			}
		}()
	}
	page.awaitText(t, 60*time.Second, "#unshown", "more public messages came too fast and are not shown")
	time.Sleep(5 * time.Second) // under the flood
	before := page.text(t, "#clock")
	await(t, "the page goes on", func() bool { return page.text(t, "#clock") != before })
	if n := page.count(t, "#public tr"); n == 0 || n > 100 {
		t.Errorf("%d public messages are shown", n)
	}
	if n := page.count(t, "*"); n > 4000 {
		t.Errorf("the page has %d elements", n)
	}
	page.awaitText(t, 10*time.Second, "#fresh", "live")
	page.shot(t, "noise", true)
}
