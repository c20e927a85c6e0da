// mesh-peer: an upstream that is a SPIFFE workload of its own, on another implementation than exeat's. It takes its SVID from the
// Workload API (SPIFFE_ENDPOINT_SOCKET), demands one SPIFFE ID of its callers, and answers with the serial number of the certificate
// that the caller showed.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("mesh-peer ADDRESS SPIFFE-ID-OF-CALLERS")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		log.Fatalf("no X509Source: %v", err)
	}
	caller := spiffeid.RequireFromString(os.Args[2])
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(caller))
	config.NextProtos = []string{"h2", "http/1.1"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaf := r.TLS.PeerCertificates[0]
		fmt.Fprintf(w, "%x %d", leaf.SerialNumber, leaf.NotAfter.Unix())
	})
	server := &http.Server{Addr: os.Args[1], Handler: handler, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("listening on %s", os.Args[1])
	log.Fatal(server.ListenAndServeTLS("", ""))
}
