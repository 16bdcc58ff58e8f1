package audit

import (
	"fmt"
	"html/template"
	"io"
	"time"
)

// page is the report as one file: no script, nothing from elsewhere. Everything
// that a record says is escaped by html/template.
const page = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Audit of {{.Site}}</title>
<style>
body { font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { border: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.good { color: #060; } .bad { color: #a00; }
</style>
</head>
<body>
<h1>Audit of {{.Site}}</h1>
{{if .OK}}<p class="good"><strong>Nothing is wrong{{if not .Whole}}, and something is missing{{end}}.</strong></p>
{{else}}<p class="bad"><strong>{{.Found}} findings.</strong></p>{{end}}
<p>Made {{ms .Made}} of what was received from {{ms .From}} to {{ms .To}}.</p>
<table>
<tr><th>root certificate, SHA-256</th><td><code>{{.Root}}</code></td></tr>
<tr><th>site document</th><td>number {{.Document}}</td></tr>
<tr><th>log</th><td>{{.Origin}}: {{.Entries}} entries, root <code>{{.RootHash}}</code>{{if .Since}}; {{.Since}} of them were verified before{{end}}</td></tr>
<tr><th>witnesses</th><td>{{range .Witnesses}}{{.Name}} at {{ms .Time}}<br>{{else}}none{{end}}{{if .Witnesses}}of {{.Witnessed}} entries{{end}}</td></tr>
<tr><th>signatures</th><td>{{.Signatures}} verified from the root</td></tr>
<tr><th>certificates</th><td>{{.Issued}} issued, {{.Revoked}} orders to revoke, {{.Readmitted}} to readmit</td></tr>
<tr><th>MACs</th><td>{{if .MACs}}{{.MACs}} verified{{else}}not checked: digests vouch for readings{{end}}</td></tr>
<tr><th>segments</th><td>{{.Segments}} files, {{.Envelopes}} envelopes, {{.Refused}} refused messages (a sample)</td></tr>
<tr><th>digests</th><td>{{.Confirmed}} confirmed over {{.Vouched}} messages, {{.Contradicted}} contradicted, {{.Incomplete}} incomplete, {{.Expired}} expired</td></tr>
<tr><th>messages</th><td>{{.Missing}} missing, {{.Declared}} declared undelivered, {{.Unvouched}} unvouched, {{.Pending}} waiting for a digest, {{.Unlogged}} in a segment alone, {{.Late}} late</td></tr>
<tr><th>commands</th><td>{{.Executions}} carried out, {{.Unexplained}} whose command may be among what is missing or on its way</td></tr>
</table>
{{if .WithoutJournal}}<p>The log holds no journal of {{range .WithoutJournal}}{{.}} {{end}}: whether it issued the certificates of its signers was not checked.</p>{{end}}
{{if .Findings}}<h2>Findings</h2>
<table><tr><th>kind</th><th>where</th><th>what</th></tr>
{{range .Findings}}<tr><td>{{.Kind}}</td><td>{{.Where}}</td><td>{{.What}}</td></tr>
{{end}}</table>{{end}}
{{if .Gaps}}<h2>Gaps</h2>
<table><tr><th>what</th><th>sender</th><th>start</th><th>first</th><th>last</th><th>after</th><th>before</th></tr>
{{range .Gaps}}<tr><td>{{.What}}</td><td>{{.Sender}}</td><td>{{.Boot}}</td><td>{{.First}}</td><td>{{.Last}}</td><td>{{ms .After}}</td><td>{{ms .Before}}</td></tr>
{{end}}</table>{{end}}
{{if .Silences}}<h2>Silence</h2>
<table><tr><th>sender</th><th>from</th><th>to</th><th>heard again</th></tr>
{{range .Silences}}<tr><td>{{.Sender}}</td><td>{{ms .From}}</td><td>{{ms .To}}</td><td>{{if .Over}}yes{{else}}no{{end}}</td></tr>
{{end}}</table>{{end}}
{{if .Delays}}<h2>Late</h2>
<table><tr><th>sender</th><th>messages</th><th>sent from</th><th>to</th><th>longest delay</th></tr>
{{range .Delays}}<tr><td>{{.Sender}}</td><td>{{.Messages}}</td><td>{{ms .First}}</td><td>{{ms .Last}}</td><td>{{.Longest}} ms</td></tr>
{{end}}</table>{{end}}
</body>
</html>
`

// WriteHTML writes the report as a page. made is when it was.
func (r *Report) WriteHTML(w io.Writer, made time.Time) error {
	t, err := template.New("report").Funcs(template.FuncMap{"ms": func(ms int64) string {
		if ms == 0 {
			return "-"
		}
		return clock(ms)
	}}).Parse(page)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return t.Execute(w, struct {
		*Report
		Made int64
	}{r, made.UnixMilli()})
}
