package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"levee/internal/audit"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "check, show, prove and copy what was recorded",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "what of the audit?")
		},
	}
	cmd.AddCommand(verifyCommand(), showCommand(), proveCommand(), auditExportCommand())
	return cmd
}

// record names the record that a command is about.
type record struct {
	dir     string
	options audit.Options
}

// flags adds the flags by which a record is named.
func (r *record) flags(cmd *cobra.Command, export bool) {
	cmd.Flags().StringVar(&r.dir, "dir", defaultDir, "state `directory` of levee up, to find the recorder in")
	cmd.Flags().StringVar(&r.options.Config, "config", "", "a recorder's configuration `file`, in place of the one in --dir")
	if export {
		cmd.Flags().StringVar(&r.options.Export, "export", "", "a `directory` that levee audit export wrote, in place of a recorder's")
	}
	cmd.Flags().StringVar(&r.options.Root, "root", "", "`file` with the root certificate that you trust; without it the recorder's own is believed")
	cmd.Flags().StringVar(&r.options.Document, "site", "", "`file` with the site document that you have; without it the one beside the record is taken, which people signed")
}

// open opens the record.
func (r *record) open() (audit.Config, error) {
	if r.options.Export != "" && r.options.Config != "" {
		return audit.Config{}, usage(errors.New("--export and --config name two records"))
	}
	if r.options.Export == "" && r.options.Config == "" {
		var err error
		if r.options.Config, err = findRecorder(r.dir); err != nil {
			return audit.Config{}, err
		}
	}
	return audit.Open(r.options)
}

// openPublic opens the record without its secrets.
func (r *record) openPublic() (audit.Config, error) {
	r.options.WithoutKeys = true
	c, err := r.open()
	return c, verified(err)
}

// verified gives what was checked and found wrong its exit code.
func verified(err error) error {
	var wrong audit.Finding
	if errors.As(err, &wrong) {
		return failure{exitVerification, err}
	}
	return err
}

// findRecorder returns the configuration file of the one recorder whose bundle
// is below dir.
func findRecorder(dir string) (string, error) {
	var found []string
	bundles := filepath.Join(dir, "bundles")
	sites, err := os.ReadDir(bundles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, site := range sites {
		if !site.IsDir() {
			continue
		}
		recorders := filepath.Join(bundles, site.Name(), "recorder")
		names, err := os.ReadDir(recorders)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, name := range slices.DeleteFunc(names, func(e fs.DirEntry) bool { return !e.IsDir() }) {
			found = append(found, filepath.Join(recorders, name.Name(), "levee-recorder.yaml"))
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d recorders below %s; name one's configuration with --config, an export with --export, or another --dir", len(found), dir)
	}
	return found[0], nil
}

// inert keeps what a file, or its name, says from steering the terminal.
func inert(s string) string {
	if quoted := strconv.Quote(s); strings.ReplaceAll(s, `"`, `\"`) != quoted[1:len(quoted)-1] {
		return quoted
	}
	return s
}
