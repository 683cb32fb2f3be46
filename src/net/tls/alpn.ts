/** What comes of the client's ALPN list. RFC 7301 section 3.2: the server's order decides. */
export type AlpnChoice =
  | { readonly is: 'agreed'; readonly protocol: string }
  | { readonly is: 'none' } // go on without: what is inside is found out by looking
  | { readonly is: 'refused'; readonly message: string } // alert no_application_protocol

/** `wanted` is the policy's list in its order, `demanded` whether one of it must be agreed on. */
export const chooseAlpn = (
  offered: readonly string[] | null,
  wanted: readonly string[],
  demanded: boolean,
): AlpnChoice => {
  const protocol = wanted.find((one) => offered?.includes(one))
  if (protocol !== undefined) return { is: 'agreed', protocol }
  if (!demanded || wanted.length === 0) return { is: 'none' }
  return { is: 'refused', message: `the client offers ${list(offered)}, the policy wants ${list(wanted)}` }
}

const list = (names: readonly string[] | null): string => (names && names.length > 0 ? names.join(', ') : 'no protocol')
