package translog

import (
	"log/slog"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"k8s.io/klog/v2"
)

// RouteLibraryLogs sends what Tessera and the libraries below it log to log.
// They log through variables of their own that belong to the whole process and
// are not safe to set while they log: call it in main, once, before the first
// Open. Without it they write to standard error. A few lines of Tessera's go to
// slog's default logger, which is main's to set.
func RouteLibraryLogs(log *slog.Logger) {
	log = log.With(slog.String("library", "tessera"))
	klog.SetSlogLogger(log)
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("telemetry of a library", slog.Any("error", err))
	}))
}
